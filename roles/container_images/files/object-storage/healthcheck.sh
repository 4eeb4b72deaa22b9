#!/bin/sh
# The gateway answers before the master knows the files with the data: until then what is stored seems to be lost.
curl -fsSk -o /dev/null https://127.0.0.1:8333/healthz &&
    curl -fsS http://127.0.0.1:9333/dir/status | grep -q '"Max":[1-9]'
