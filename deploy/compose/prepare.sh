#!/usr/bin/env bash
# Makes what compose.yaml needs and nobody else should know, once: passwords (.env), a CA and RabbitMQ's certificate
# (secrets/), RabbitMQ's users with the hashes of their passwords. What is there already stays. Needs openssl.
# RABBITMQ_NAME: another name for the certificate than that of the service.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
umask 077
mkdir -p secrets

if [ ! -e .env ]; then
    {
        for name in RABBITMQ_TOPOLOGY RABBITMQ_SERVE RABBITMQ_WORK RABBITMQ_OPERATOR POSTGRES ADMIN GRAFANA; do
            echo "${name}_PASSWORD=$(openssl rand -hex 24)"
        done
        echo "# Of the console's callback authentication; also put your SDKAppID into config.yaml."
        echo "IM_TOKEN=change-me-$(openssl rand -hex 8)"
    } >.env
fi
. ./.env

# RabbitMQ's form of a password: base64(salt + SHA-256(salt + password)), 4 bytes of salt.
hash() {
    local salt
    salt=$(openssl rand -hex 4 | sed 's/../\\x&/g')
    { printf '%b' "$salt"; { printf '%b' "$salt"; printf '%s' "$1"; } | openssl dgst -sha256 -binary; } | base64 -w0
}
if [ ! -e secrets/definitions.json ]; then
    definitions=$(<../rabbitmq/definitions.json)
    for user in topology serve work operator; do
        name="RABBITMQ_${user^^}_PASSWORD"
        definitions=${definitions/"\"im-$user\", \"password_hash\": \"\""/"\"im-$user\", \"password_hash\": \"$(hash "${!name}")\""}
    done
    printf '%s\n' "$definitions" >secrets/definitions.json
fi

if [ ! -e secrets/rabbitmq.pem ]; then
    openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj '/CN=im-gateway CA' \
        -addext keyUsage=critical,keyCertSign,cRLSign -keyout secrets/ca.key -out secrets/ca.pem 2>/dev/null
    openssl req -newkey rsa:3072 -nodes -subj '/CN=rabbitmq' -keyout secrets/rabbitmq.key -out secrets/rabbitmq.csr 2>/dev/null
    openssl x509 -req -in secrets/rabbitmq.csr -CA secrets/ca.pem -CAkey secrets/ca.key -CAcreateserial -days 825 \
        -extfile <(printf 'subjectAltName=DNS:%s\nextendedKeyUsage=serverAuth\n' "${RABBITMQ_NAME:-rabbitmq}") -out secrets/rabbitmq.pem 2>/dev/null
    rm secrets/rabbitmq.csr
fi
# Read inside the containers by users that are not the owner here; the folder itself is closed to others.
chmod 644 secrets/definitions.json secrets/ca.pem secrets/rabbitmq.pem secrets/rabbitmq.key
echo "Ready: put your SDKAppID into config.yaml, its token into .env (IM_TOKEN), then: docker compose up --build --detach"
