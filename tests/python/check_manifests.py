"""Validates manifests against the OpenAPI schema of Kubernetes, strictly: a key that Kubernetes does not know is an error.

    python check_manifests.py FILE...

Prints the commands of all containers as one JSON list, and exits 1 if a manifest is not valid.
"""

import copy
import json
import sys

import kubernetes_validate
import yaml

# The rules for exit codes of single indexes are stable since 1.33.
VERSIONS = ["1.33", "1.37"]


def problems(document):
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"Kubernetes {version}: {error.message}"


def main():
    commands, found = [], []
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            documents = list(yaml.safe_load_all(file))
        for document in documents:
            found += [f"{path}: {problem}" for problem in problems(document)]
            spec = document["spec"]
            commands += [container["command"] for container in spec["template"]["spec"]["containers"]]
            # The validation has to notice a misspelt key and a wrong type.
            misspelt, mistyped = copy.deepcopy(document), copy.deepcopy(document)
            misspelt["spec"]["podFailurePolicy"]["rule"] = []
            mistyped["spec"]["completions"] = "eight"
            if not list(problems(misspelt)) or not list(problems(mistyped)):
                found.append(f"{path}: the validation notices nothing")
    print(json.dumps(commands))
    print("\n".join(found), file=sys.stderr)
    sys.exit(1 if found or not commands else 0)


if __name__ == "__main__":
    main()
