"""Certificates and tokens of one lab.

In: an empty folder. Out: a CA, the API server's and its clients' certificates, the service account key, and static tokens.
They are worth nothing outside the lab's namespaces; the folder is readable by root alone all the same.
"""

import secrets
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pilus_lab.spec import Spec

_DAYS = "3650"
# user -> groups
_USERS = {
    "admin": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "system:kube-proxy": "",
}


def _openssl(*arguments: str, text: str | None = None) -> None:
    done = subprocess.run(["openssl", *arguments], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]}: {done.stderr.strip()}")


def _key(path: Path) -> None:
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(path))


def _certificate(folder: Path, name: str, subject: str, usage: str, alternatives: str = "") -> None:
    _key(folder / f"{name}.key")
    _openssl("req", "-new", "-key", f"{folder}/{name}.key", "-subj", subject, "-out", f"{folder}/{name}.csr")
    extensions = folder / f"{name}.ext"
    extensions.write_text(
        f"basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage={usage}\n{alternatives}\n"
    )
    _openssl(
        "x509", "-req", "-in", f"{folder}/{name}.csr", "-CA", f"{folder}/ca.crt", "-CAkey", f"{folder}/ca.key",
        "-set_serial", f"0x{secrets.token_hex(8)}", "-days", _DAYS, "-extfile", str(extensions), "-out", f"{folder}/{name}.crt",
    )  # fmt: skip


def make(spec: Spec) -> dict[str, str]:
    """Make everything; returns the token of every user."""
    folder = spec.pki
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    _key(folder / "ca.key")
    _openssl(
        "req", "-x509", "-new", "-key", f"{folder}/ca.key", "-subj", "/CN=lab-ca", "-days", _DAYS,
        "-out", f"{folder}/ca.crt", "-addext", "keyUsage=critical,digitalSignature,keyCertSign",
    )  # fmt: skip
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    addresses = (spec.api_address, "10.96.0.1", "127.0.0.1", "fd00:96::1")
    alternatives = [f"IP:{address}" for address in addresses] + [f"DNS:{name}" for name in (*names, "localhost")]
    with ThreadPoolExecutor() as pool:
        made = [
            pool.submit(
                _certificate,
                folder,
                "apiserver",
                "/CN=kube-apiserver",
                "serverAuth",
                f"subjectAltName={','.join(alternatives)}",
            ),
            pool.submit(
                _certificate,
                folder,
                "kubelet-client",
                "/O=system:masters/CN=kube-apiserver-kubelet-client",
                "clientAuth",
            ),
            pool.submit(_certificate, folder, "front-proxy-client", "/CN=front-proxy-client", "clientAuth"),
            pool.submit(_key, folder / "sa.key"),
        ]
        for certificate in made:
            certificate.result()
    _openssl("ec", "-in", f"{folder}/sa.key", "-pubout", "-out", f"{folder}/sa.pub")
    users = _USERS | {f"system:node:{node.name}": "system:nodes" for node in spec.nodes}
    tokens = {user: secrets.token_hex(16) for user in users}
    lines = [f'{tokens[user]},{user},{user},"{groups}"\n' for user, groups in users.items()]
    (folder / "tokens.csv").write_text("".join(lines))
    return tokens


def kubeconfig(spec: Spec, user: str, token: str) -> Path:
    """Write the file with which ``user`` reaches the lab's API server; returns its path."""
    spec.kubeconfigs.mkdir(parents=True, mode=0o700, exist_ok=True)
    path = spec.kubeconfigs / user.replace(":", "-")
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: lab\n"
        f"clusters: [{{name: lab, cluster: {{server: '{spec.api_url}', certificate-authority: '{spec.pki}/ca.crt'}}}}]\n"
        f"users: [{{name: user, user: {{token: '{token}'}}}}]\n"
        "contexts: [{name: lab, context: {cluster: lab, user: user}}]\n"
    )
    path.chmod(0o600)
    return path
