#!/bin/sh
# Starts an MLflow server with a login, on 127.0.0.1; the same in a container (compose.yaml) and without:
#
#   sh deploy/mlflow/secrets.sh ~/.bnsweep/mlflow.env
#   set -a; . ~/.bnsweep/mlflow.env; set +a
#   MLFLOW_FOLDER=/srv/mlflow sh deploy/mlflow/start.sh
#
# Variables: MLFLOW_FOLDER (artifacts, accounts), MLFLOW_PORT (5000), MLFLOW_BACKEND_STORE_URI (SQLite in the
# folder, or PostgreSQL), MLFLOW_ALLOWED_HOSTS (names by which a proxy passes requests on, with ports),
# MLFLOW_ADMIN_PASSWORD, MLFLOW_SECRET_KEY. Passwords are in no command line. Needs mlflow==3.17.2 and flask-wtf.
set -eu
umask 077
folder=${MLFLOW_FOLDER:?name a folder for artifacts and accounts}
port=${MLFLOW_PORT:-5000}
mkdir -p "$folder/artifacts"

export MLFLOW_BACKEND_STORE_URI="${MLFLOW_BACKEND_STORE_URI:-sqlite:///$folder/mlflow.db}"
export MLFLOW_AUTH_ADMIN_USERNAME="${MLFLOW_AUTH_ADMIN_USERNAME:-admin}"
export MLFLOW_AUTH_ADMIN_PASSWORD="${MLFLOW_AUTH_ADMIN_PASSWORD:-${MLFLOW_ADMIN_PASSWORD:?run secrets.sh}}"
export MLFLOW_FLASK_SERVER_SECRET_KEY="${MLFLOW_FLASK_SERVER_SECRET_KEY:-${MLFLOW_SECRET_KEY:?run secrets.sh}}"
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_X_FRAME_OPTIONS=DENY

# Nobody sees what is not his: rights are given run by run, by the administrator.
export MLFLOW_AUTH_CONFIG_PATH="$folder/auth.ini"
cat > "$MLFLOW_AUTH_CONFIG_PATH" << END
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///$folder/accounts.db
auth_cache_ttl_seconds = 30
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
END

hosts="127.0.0.1:$port,localhost:$port${MLFLOW_ALLOWED_HOSTS:+,$MLFLOW_ALLOWED_HOSTS}"
exec "${PYTHON:-python}" -m mlflow server --app-name basic-auth --host 127.0.0.1 --port "$port" --workers 1 \
    --allowed-hosts "$hosts" --serve-artifacts --artifacts-destination "$folder/artifacts"
