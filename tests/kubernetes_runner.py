"""Runs a rendered Indexed Job as processes of this machine.

What the Job controller and the kubelet do with the fields that matter here:
one process per index with its environment, arguments expanded, exit codes
read by podFailurePolicy, pods replaced until all indexes have succeeded.
Volumes become folders, and the pods' host names loopback addresses.
"""

import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import yaml

POLL_SECONDS = 0.1


@dataclasses.dataclass
class Outcome:
    """How a Job ended.

    Attributes:
        condition: "Complete" or "Failed".
        codes: Exit codes of the pods of each index, in order.
        logs: Output of all pods of each index.
    """

    condition: str
    codes: dict[int, list[int]]
    logs: dict[int, str]


class Runner:
    """Runs the Job of a manifest.

    Args:
        manifest: Its text.
        folders: What stands for each PersistentVolumeClaim.
        root: For logs and config maps.
    """

    def __init__(
        self,
        manifest: str,
        folders: dict[str, pathlib.Path],
        root: pathlib.Path,
    ):
        documents = list(yaml.safe_load_all(manifest))
        (self._job,) = [d for d in documents if d["kind"] == "Job"]
        self._spec = self._job["spec"]
        self._root = root
        self._pods: dict[int, subprocess.Popen] = {}
        self._codes: dict[int, list[int]] = {
            index: [] for index in range(self._spec["completions"])
        }
        self._places = self._mount(documents, folders)

    def run(self, on_tick=lambda runner: None, seconds: float = 600) -> Outcome:
        """Runs the Job to its end; `on_tick` is called all the while."""
        end = time.monotonic() + seconds
        succeeded, counted = set(), dict.fromkeys(self._codes, 0)
        failed = False
        try:
            while len(succeeded) < len(self._codes) and not failed:
                for index in self._codes:
                    if index not in succeeded and index not in self._pods:
                        self._pods[index] = self._start(index)
                on_tick(self)
                for index, pod in list(self._pods.items()):
                    code = pod.poll()
                    if code is None:
                        continue
                    del self._pods[index]
                    # The kubelet tells a signal as a shell does.
                    code = 128 - code if code < 0 else code
                    self._codes[index].append(code)
                    action = self._action(code)
                    if code == 0:
                        succeeded.add(index)
                    elif action in ("FailJob", "FailIndex"):
                        failed = True
                    elif action == "Count":
                        counted[index] += 1
                limit = self._spec.get("backoffLimit", 6)
                failed |= sum(counted.values()) > limit
                if time.monotonic() > end:
                    raise TimeoutError(str(self._outcome("Unknown")))
                time.sleep(POLL_SECONDS)
        finally:
            for pod in self._pods.values():
                pod.kill()
                pod.wait()
        return self._outcome("Failed" if failed else "Complete")

    def delete_pod(self, index: int) -> None:
        """Does what an eviction does: SIGTERM to process 1."""
        self._pods[index].send_signal(signal.SIGTERM)

    def kill_pod(self, index: int) -> None:
        """Does what the loss of a node does."""
        self._pods[index].kill()

    def _outcome(self, condition: str) -> Outcome:
        logs = {
            index: (self._root / f"pod-{index}.log").read_text()
            for index in self._codes
            if (self._root / f"pod-{index}.log").exists()
        }
        return Outcome(condition, self._codes, logs)

    def _action(self, code: int) -> str:
        for rule in self._spec["podFailurePolicy"]["rules"]:
            codes = rule.get("onExitCodes")
            if codes and (code in codes["values"]) == (
                codes["operator"] == "In"
            ):
                return rule["action"]
        return "Count"

    def _mount(self, documents, folders) -> dict[str, str]:
        """Returns the folder of this machine for each mounted path."""
        pod = self._spec["template"]["spec"]
        by_name = {}
        for volume in pod["volumes"]:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            folder = folders.get(claim, self._root / volume["name"])
            folder.mkdir(parents=True, exist_ok=True)
            by_name[volume["name"]] = folder
            if "configMap" in volume:
                (config_map,) = [
                    d
                    for d in documents
                    if d["kind"] == "ConfigMap"
                    and d["metadata"]["name"] == volume["configMap"]["name"]
                ]
                for name, text in config_map["data"].items():
                    (folder / name).write_text(text)
        mounts = pod["containers"][0]["volumeMounts"]
        return {m["mountPath"]: str(by_name[m["name"]]) for m in mounts}

    def _start(self, index: int) -> subprocess.Popen:
        (container,) = self._spec["template"]["spec"]["containers"]
        environ = {entry["name"]: entry["value"] for entry in container["env"]}
        environ["JOB_COMPLETION_INDEX"] = str(index)
        if "SHARDTUNE_WORKERS" in environ:
            environ["SHARDTUNE_WORKERS"] = self._addresses(
                environ["SHARDTUNE_WORKERS"]
            )
        words = [
            self._located(
                re.sub(
                    r"\$\((\w+)\)",
                    lambda match: environ.get(match[1], match[0]),
                    word,
                )
            )
            for word in (*container["command"], *container["args"])
        ]
        words[0] = {"python": sys.executable}[words[0]]
        with open(self._root / f"pod-{index}.log", "ab") as log:
            return subprocess.Popen(
                words,
                env={
                    **os.environ,
                    **{
                        n: self._located(f"={v}")[1:]
                        for n, v in environ.items()
                    },
                },
                stdout=log,
                stderr=log,
                cwd=pathlib.Path(__file__).resolve().parent.parent,
            )

    def _addresses(self, workers: str) -> str:
        """Returns loopback addresses for the pods' names, a port each."""
        job = self._job["metadata"]["name"]
        if not hasattr(self, "_ports"):
            from launch.workers import free_ports

            self._ports = free_ports(len(workers.split(",")))
        found = []
        for index, worker in enumerate(workers.split(",")):
            host = worker.partition(":")[0]
            subdomain = self._spec["template"]["spec"]["subdomain"]
            # The only name that the headless Service would resolve.
            if host != f"{job}-{index}.{subdomain}":
                raise LookupError(f"no pod is called {host}")
            found.append(f"127.0.0.1:{self._ports[index]}")
        return ",".join(found)

    def _located(self, word: str) -> str:
        for place, folder in sorted(self._places.items(), reverse=True):
            word = re.sub(rf"(?<==){re.escape(place)}(?=/|$)", folder, word)
        return word
