"""What trackers have written, read back by the formats that they publish."""

import json
import pathlib
import time

from tensorboardX.proto import event_pb2


def tensorboard_values(folder):
    """tag -> {step: value} of event files by TensorBoard's rules: a later file replaces the steps it restarts."""
    found = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        content, at = path.read_bytes(), 0
        while at < len(content):
            length = int.from_bytes(content[at : at + 8], "little")
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            if event.HasField("session_log") and event.session_log.status == event_pb2.SessionLog.START:
                for points in found.values():
                    for step in [step for step in points if step >= event.step]:
                        del points[step]
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value
    return found


def wandb_files(folder):
    """What W&B has written under a folder, in the order in which it was begun."""
    return sorted(pathlib.Path(folder).rglob("*.wandb"), key=lambda path: path.stat().st_ctime)


def wandb_records(path):
    """Records of a file that W&B has written: blocks of 32 KiB as in LevelDB's logs."""
    from wandb.proto import wandb_internal_pb2

    content, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        if at + 7 + length > len(content):
            return
        part += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield wandb_internal_pb2.Record.FromString(part)
            part = b""


def wandb_run(path):
    """What such a file says once it is whole; its writer is another process, which may need a moment."""
    deadline = time.monotonic() + 30
    while (said := _wandb_run(path))["exit"] is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return said


def _wandb_run(path):
    """Configuration, history by step, summary, files of artefacts, exit code."""
    said = {"config": {}, "history": {}, "summary": {}, "artifacts": {}, "exit": None, "metrics": {}}
    for record in wandb_records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            said["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            said |= {"id": record.run.run_id, "project": record.run.project, "tags": list(record.run.tags)}
            said["name"] = record.run.display_name
        elif kind == "history":
            row = {_key(item): json.loads(item.value_json) for item in record.history.item}
            said["history"].setdefault(row["_step"], {}).update(row)
        elif kind == "summary":
            said["summary"] |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
        elif kind == "artifact":
            names = {entry.path for entry in record.artifact.manifest.contents}
            said["artifacts"][record.artifact.type, record.artifact.name] = names
        elif kind == "metric":
            said["metrics"][record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "exit":
            said["exit"] = record.exit.exit_code
    return said


def _key(item):
    return item.key or "/".join(item.nested_key)
