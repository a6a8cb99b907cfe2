"""Kubernetes' own schemas, and LeaderWorkerSet's, accept the examples. Argument: JSON with `files` and `lws`, the definition
of LeaderWorkerSet's resource, or null."""

import json
import sys

import jsonschema
import kubernetes_validate
import yaml

VERSION = "1.36"
given = json.loads(sys.argv[1])


def strict(schema):
    """What a schema does not know, the server would drop: a misspelt name is an error here."""
    if isinstance(schema, dict):
        if "properties" in schema and schema.get("type") == "object":
            schema = {"additionalProperties": False, **schema}
        return {name: strict(part) for name, part in schema.items()}
    return [strict(part) for part in schema] if isinstance(schema, list) else schema


def lws_schema():
    with open(given["lws"]) as file:
        definition = yaml.safe_load(file)
    (version,) = [one for one in definition["spec"]["versions"] if one["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def check(document):
    if document["kind"] != "LeaderWorkerSet":
        kubernetes_validate.validate(document, VERSION, strict=True)
    elif given["lws"] is not None:
        jsonschema.Draft202012Validator(lws_schema()).validate(document)


def refused(document):
    try:
        check(document)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError):
        return
    raise AssertionError(f"accepted: {document}")


seen = []
for path in given["files"]:
    with open(path) as file:
        for document in yaml.safe_load_all(file):
            check(document)
            seen.append(document["kind"])
            if document["kind"] == "LeaderWorkerSet" and given["lws"] is not None:
                document["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]["containers"][0]["comand"] = []
                refused(document)
            elif document["kind"] == "Pod":
                document["spec"]["containers"][0]["comand"] = []
                refused(document)
print(*seen)
