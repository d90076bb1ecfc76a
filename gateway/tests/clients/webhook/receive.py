"""Receives one delivery of a running gateway and judges it with a stock Standard Webhooks verifier.

usage: receive.py URL TOKEN
"""

import http.server
import json
import queue
import sys
import threading
import urllib.request

from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

WAIT_S = 30
# How long a second delivery would have to come.
REPEAT_S = 2


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps what was posted and says that it was taken."""

    deliveries = queue.Queue()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.deliveries.put((dict(self.headers.items()), body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def ask(method, url, token, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), method=method)
    request.add_header("Authorization", f"Bearer {token}")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        return json.load(answer)


def repeated():
    try:
        Receiver.deliveries.get(timeout=REPEAT_S)
    except queue.Empty:
        return False
    return True


def refused(secret, body, headers):
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return True
    return False


def main(url, token):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    target = f"http://127.0.0.1:{server.server_address[1]}/hook"
    made = ask(
        "POST",
        f"{url}/v1/organizations/acme/notifications",
        token,
        {"type": "webhook", "events": {"buildCreated": True}, "setup": {"webhook": {"url": target}}},
    )
    secret = made["data"]["config"]["webhook"]["token"]
    event = {"event": "buildCreated", "data": {"build": 17, "name": "Größe – 大きさ"}}
    ask("POST", f"{url}/bugler/v1/organizations/101/events", token, event)
    headers, body = Receiver.deliveries.get(timeout=WAIT_S)
    received = Webhook(secret).verify(body, headers)
    names = {name.lower(): name for name in headers}
    later = dict(headers)
    later[names["webhook-timestamp"]] = str(int(headers[names["webhook-timestamp"]]) - 3600)
    other = "whsec_" + "A" * 43 + "="
    problems = [
        what
        for what, is_good in [
            ("the action is not build_created", received["action"] == "build_created"),
            ("the data is not what was raised", received["data"] == event["data"]),
            ("the organization is not named", received["organization"]["slug"] == "acme"),
            ("an altered body is accepted", refused(secret, body.replace(b"17", b"18"), headers)),
            ("another secret is accepted", refused(other, body, headers)),
            ("an old time is accepted", refused(secret, body, later)),
            ("it was delivered more than once", not repeated()),
        ]
        if not is_good
    ]
    server.shutdown()
    if problems:
        sys.exit("check-webhook: " + "; ".join(problems))
    print(f"check-webhook: one delivery of {len(body)} bytes, verified; altered ones refused")


if __name__ == "__main__":
    main(*sys.argv[1:])
