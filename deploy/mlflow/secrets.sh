#!/bin/sh
# Makes the secrets of an MLflow server, once: FILE (deploy/mlflow/.env by default), for its owner alone.
set -eu
file=${1:-$(dirname "$0")/.env}
if [ -e "$file" ]; then
    echo "$file is there already" >&2
    exit 0
fi
umask 077
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
{
    echo "POSTGRES_PASSWORD=$(random)"
    echo "MLFLOW_ADMIN_PASSWORD=$(random)"
    echo "MLFLOW_SECRET_KEY=$(random)"
} > "$file"
echo "made $file; the administrator is admin, with its MLFLOW_ADMIN_PASSWORD" >&2
