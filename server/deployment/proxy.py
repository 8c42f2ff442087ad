"""The public port: an nginx that lets sites reach Flower's Fleet API and nothing else."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
from pathlib import Path

from climb_model.atomic import write_text_atomic
from climb_model.supervisor import Service
from configs.errors import UserError
from server.deployment.home import Home
from server.deployment.superlink import LOOPBACK

BODY_MB = 6
"""Largest request: a chunk of 5 MiB, which is Flower's largest, and what is around it."""

RATE = 200
"""Requests a second of one address; more are delayed, not refused."""

CONNECTIONS = 256
"""Of one address at once: hospitals may share one."""

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class ProxyError(UserError):
    """The proxy cannot be started; one line."""


def proxy_service(home: Home) -> Service:
    """Write the configuration and give the service.

    Raises:
        ProxyError: where there is no nginx.
    """
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise ProxyError("climb-server start needs nginx as its public port: apt install nginx-light")
    configuration = write_configuration(home)
    command = [program, "-p", f"{home.nginx}/", "-c", str(configuration), "-e", "stderr"]
    return Service(
        "proxy",
        command,
        {"PATH": os.environ.get("PATH", "")},
        home.logs / "proxy.log",
        ready=lambda: answers(home),
        reread=home.server_certificate,  # written after its key
    )


def write_configuration(home: Home) -> Path:
    """Write `nginx.conf` and the folders that it names; returns its path."""
    for name in _TEMPORARY:
        (home.nginx / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    path = home.nginx / "nginx.conf"
    write_text_atomic(path, configuration(home))
    return path


def configuration(home: Home) -> str:
    """The text of `nginx.conf`.

    What passes is decided on the method and the path as the client sent it, before nginx decodes
    and tidies it, and the same bytes go to the SuperLink: no spelling of another path can pass.
    While the SuperLink restarts sites get 502, after which Flower tries again; any answer of another
    number would end a site's program.
    """
    settings = home.settings()
    listen = f"[{settings.listen}]" if ":" in settings.listen else settings.listen
    user = "user root;\n" if os.geteuid() == 0 else ""
    temporary = "\n".join(f"    {name}_temp_path {_quoted(home.nginx / name)};" for name in _TEMPORARY)
    return f"""\
# Written by climb-server start.
{user}daemon off;
worker_processes 2;
pid {_quoted(home.nginx / "nginx.pid")};
error_log stderr notice;

events {{
    worker_connections 2048;
}}

http {{
{temporary}
    server_tokens off;
    log_format climb '$time_iso8601 $remote_addr "$request_method $request_uri" $status '
                     '$request_length $bytes_sent $request_time';
    access_log /dev/stdout climb;

    map "$request_method $request_uri" $passes {{
        default 0;
        "~^POST /v1/fleet/[a-z][a-z-]*$" 1;
        "~^(GET|HEAD) /health$" 1;
    }}
    map "" $nothing {{ default ""; }}  # a literal empty text would give nginx's own page
    limit_req_zone $binary_remote_addr zone=requests:10m rate={RATE}r/s;
    limit_req_status 503;
    limit_conn_zone $binary_remote_addr zone=connections:10m;
    limit_conn_status 503;

    upstream superlink {{
        server {LOOPBACK}:{settings.superlink_port} max_fails=0;
        keepalive 32;
    }}

    server {{
        listen {listen}:{settings.port} ssl;
        ssl_certificate {_quoted(home.server_certificate)};
        ssl_certificate_key {_quoted(home.server_key)};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;
        ssl_session_cache shared:tls:2m;
        ssl_session_tickets off;

        # Slow links: a pause of two minutes within a request is borne.
        client_header_timeout 60s;
        client_body_timeout 120s;
        send_timeout 120s;
        keepalive_timeout 120s;
        keepalive_requests 100000;
        client_max_body_size {BODY_MB}m;
        client_body_buffer_size 256k;
        large_client_header_buffers 4 8k;

        limit_req zone=requests burst=1000;
        limit_conn connections {CONNECTIONS};

        # Whole requests reach the SuperLink: a slow site holds none of its threads.
        proxy_request_buffering on;
        proxy_next_upstream off;
        proxy_connect_timeout 5s;
        proxy_send_timeout 60s;
        proxy_read_timeout 120s;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto https;
        proxy_ssl_verify on;
        proxy_ssl_verify_depth 2;
        proxy_ssl_trusted_certificate {_quoted(home.ca_certificate)};
        proxy_ssl_name localhost;
        proxy_ssl_server_name on;
        proxy_ssl_protocols TLSv1.2 TLSv1.3;

        if ($passes = 0) {{
            return 404 $nothing;
        }}
        location / {{
            return 404 $nothing;
        }}
        location ^~ /v1/fleet/ {{
            proxy_pass https://superlink;
        }}
        location = /health {{
            proxy_pass https://superlink;
        }}
    }}
}}
"""


def answers(home: Home) -> bool:
    """Whether the public port answers over TLS with the server's certificate, whatever it answers."""
    settings = home.settings()
    address = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(settings.listen, settings.listen)
    try:
        context = ssl.create_default_context(cafile=str(home.ca_certificate))
        with (
            socket.create_connection((address, settings.port), timeout=2) as plain,
            context.wrap_socket(plain, server_hostname=settings.host) as secure,
        ):
            secure.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            return secure.recv(5) == b"HTTP/"
    except OSError:
        return False


def _quoted(path: Path) -> str:
    text = str(path)
    if any(sign in text for sign in '"\\$;{}\n'):
        raise ProxyError(f"nginx takes no quotes, backslashes, '$', ';' or braces in a path, got {text}")
    return f'"{text}"'
