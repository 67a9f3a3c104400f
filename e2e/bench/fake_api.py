"""An API server that holds 50,000 pods and nothing else: real list pages, real watches, over HTTP.

`python -m bench.fake_api PODS`: prints its port as JSON when every page is made, serves until it is ended. Pods are as an API
server sends them, managed fields and status included, in 100 namespaces with 250 sets of labels.
"""

import asyncio
import json
import sys
from typing import Any

from aiohttp import web

NAMESPACES, APPS = 100, 250
SECRETS = "/var/run/secrets/kubernetes.io/serviceaccount"
_VERSION = "1000000"


def pod(number: int) -> dict[str, Any]:
    app, namespace = f"app-{number % APPS}", f"team-{number % NAMESPACES}"
    name, uid = f"{app}-7d9f8b6c5d-{number:05x}", f"00000000-0000-4000-8000-{number:012x}"
    labels = {"app": app, "app.kubernetes.io/name": app, "app.kubernetes.io/instance": app, "pod-template-hash": "7d9f8b6c5d",
              "tier": ("web", "api", "data")[number % 3]}  # fmt: skip
    when = "2026-01-01T00:00:00Z"
    conditions = [{"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": when}
                  for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")]  # fmt: skip
    probe = {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
             "successThreshold": 1, "failureThreshold": 3}  # fmt: skip
    fields: dict[str, Any] = {
        f"f:{key}": {} for key in (*labels, "containers", "dnsPolicy", "enableServiceLinks", "restartPolicy", "schedulerName")
    }
    managed = [{"manager": manager, "operation": "Update", "apiVersion": "v1", "time": when, "fieldsType": "FieldsV1",
                "fieldsV1": {"f:metadata": {"f:labels": fields}, "f:spec": fields}}
               for manager in ("kube-controller-manager", "kubelet")]  # fmt: skip
    return {
        "metadata": {"name": name, "generateName": f"{app}-7d9f8b6c5d-", "namespace": namespace, "uid": uid,
                     "resourceVersion": str(number + 1), "creationTimestamp": when, "labels": labels, "managedFields": managed,
                     "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{app}-7d9f8b6c5d", "uid": uid,
                                          "controller": True, "blockOwnerDeletion": True}]},
        "spec": {"containers": [{"name": "main", "image": f"registry.example/{app}:1.2.3", "ports": [{"containerPort": 8080}],
                                 "env": [{"name": f"SETTING_{each}", "value": f"value-{each}"} for each in range(10)],
                                 "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}, "livenessProbe": probe,
                                 "readinessProbe": probe, "imagePullPolicy": "IfNotPresent",
                                 "volumeMounts": [{"name": "token", "mountPath": SECRETS}]}],
                 "volumes": [{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"expirationSeconds": 3607}}]}}],
                 "restartPolicy": "Always", "serviceAccountName": "default", "serviceAccount": "default",
                 "nodeName": f"node-{number % 1000}", "schedulerName": "default-scheduler", "priority": 0},
        "status": {"phase": "Running", "conditions": conditions, "hostIP": "192.0.2.1", "startTime": when, "qosClass": "Burstable",
                   "podIP": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
                   "containerStatuses": [{"name": "main", "state": {"running": {"startedAt": when}}, "ready": True,
                                          "restartCount": 0, "image": f"registry.example/{app}:1.2.3", "started": True,
                                          "imageID": f"sha256:{number:064x}", "containerID": f"containerd://{number:064x}"}]},
    }  # fmt: skip


class Server:
    def __init__(self, pods: int) -> None:
        self._items = [json.dumps(pod(number)) for number in range(pods)]

    async def serve(self) -> None:
        application = web.Application()
        application.router.add_get("/api/v1/pods", self._pods)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        held = runner.addresses[0]
        print(json.dumps({"port": held[1], "bytes": sum(len(item) for item in self._items)}), flush=True)
        await asyncio.Event().wait()

    async def _pods(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") in ("1", "true"):
            return await self._watch(request)
        limit, start = int(request.query.get("limit", "0")) or len(self._items), int(request.query.get("continue") or "0")
        page = self._items[start : start + limit]
        left = len(self._items) - start - len(page)
        metadata = {"resourceVersion": _VERSION} | ({"continue": str(start + limit), "remainingItemCount": left} if left else {})
        text = f'{{"kind":"PodList","apiVersion":"v1","metadata":{json.dumps(metadata)},"items":[{",".join(page)}]}}'
        return web.Response(text=text, content_type="application/json")

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        """Bookmarks, once a second."""
        response = web.StreamResponse()
        await response.prepare(request)
        bookmark = {"type": "BOOKMARK", "object": {"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": _VERSION}}}
        while True:
            await response.write(json.dumps(bookmark).encode() + b"\n")
            await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(Server(int(sys.argv[1])).serve())
