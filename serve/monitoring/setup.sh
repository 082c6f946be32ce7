#!/usr/bin/env bash
# What Elasticsearch and Kibana have to know before the first line comes.
#   setup.sh elasticsearch URL   Kibana's and Filebeat's users, life cycle, ingest pipeline, index template
#   setup.sh kibana URL          data view and dashboard
set -euo pipefail
cd "$(dirname "$0")"
url=$2

send() {  # METHOD PATH curl's options...
    local method=$1 path=$2; shift 2
    curl --silent --show-error --fail-with-body --retry 30 --retry-delay 2 --retry-connrefused --user "elastic:$ELASTIC_PASSWORD" \
        --request "$method" "$@" "$url$path"
    echo " <- $path"
}
json() { send "$1" "$2" --header 'Content-Type: application/json' --data-binary "$3"; }

case $1 in
elasticsearch)
    for password in "$ELASTIC_PASSWORD" "$KIBANA_PASSWORD" "$FILEBEAT_PASSWORD"; do
        [[ $password =~ ^[A-Za-z0-9._:@-]+$ ]] || { echo "a password is empty, or has other characters than letters, digits and ._:@-" >&2; exit 2; }
    done
    json POST /_security/user/kibana_system/_password "{\"password\": \"$KIBANA_PASSWORD\"}"
    # Filebeat may add to our data streams and do nothing else.
    json PUT /_security/role/stockml_writer \
        '{"cluster": ["monitor"], "indices": [{"names": ["logs-stockml.*-*"], "privileges": ["auto_configure", "create_doc"]}]}'
    json PUT /_security/user/stockml_writer "{\"password\": \"$FILEBEAT_PASSWORD\", \"roles\": [\"stockml_writer\"]}"
    json PUT /_ilm/policy/stockml @ilm.json
    json PUT /_ingest/pipeline/stockml @ingest-pipeline.json
    json PUT /_index_template/stockml @index-template.json
    ;;
kibana)
    send POST '/api/saved_objects/_import?overwrite=true' --header 'kbn-xsrf: stockml' --form file=@dashboard.ndjson
    ;;
esac
