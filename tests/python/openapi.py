"""Validates an OpenAPI document, with a validator that is not ours.

usage: openapi.py FILE
"""

import json
import sys

from openapi_spec_validator import OpenAPIV31SpecValidator


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        document = json.load(file)
    if not document.get("openapi", "").startswith("3.1"):
        sys.exit(f"openapi: {document.get('openapi')!r} is not 3.1")
    problems = list(OpenAPIV31SpecValidator(document).iter_errors())
    for problem in problems:
        print(f"{'/'.join(map(str, problem.absolute_path))}: {problem.message}")
    print(f"openapi: {len(document['paths'])} paths, {len(problems)} problems")
    sys.exit(1 if problems else 0)


main()
