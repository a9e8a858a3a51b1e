"""Looks for values that the chart takes and does nothing with: each value of the schema is set to another one, and must change what
is rendered, or be refused, over one of the given values files.

unread.py HELM CHART KUBE_VERSION VALUES_FILE...
"""

import functools
import json
import subprocess
import sys
import tempfile

helm, chart, version, *files = sys.argv[1:]

# Taken, and said to be without effect.
WITHOUT_EFFECT = {
    "global",  # helm's own, for charts in charts
    "router.monitoring.provider.gmp",  # of a provider that is refused
    "router.tracing",  # beside `enabled`: llm-d's exporter and sampler
}

# What a list's item must have beside what the schema says.
NEEDED = {"modelServers", "matchLabels"}


@functools.cache
def render(base, text):
    """What comes of it, which may be the chart's refusal. `None`: it is not as the schema wants it, so nothing is known."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(text)
        file.flush()
        command = [helm, "template", "x", chart, "--kube-version", version, "-f", base, "-f", file.name]
        done = subprocess.run(command, capture_output=True, text=True)
    if "meet the specifications of the schema" in done.stderr:
        return None
    return done.stdout if done.returncode == 0 else done.stderr


def changes(base, document, without):
    """Whether `document` comes to something else than `without` does."""
    before, after = (render(base, json.dumps(values)) for values in (without, document))
    return None not in (before, after) and before != after


def merged(one, other):
    """Both objects in one, down to the last value; of two values the other one."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return other
    return one | {name: merged(one.get(name), value) for name, value in other.items()}


def smallest(schema):
    """A value that the schema takes, with no more in it than it must have."""
    if "properties" in schema:
        needed = [*schema.get("required", []), *NEEDED.intersection(schema["properties"])]
        return {name: smallest(schema["properties"][name]) for name in needed}
    return others(schema)[0] if schema else None


def others(schema):
    """Values that the schema takes. At least one is no default."""
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "enum" in schema:
        return schema["enum"]
    if "boolean" in kinds:
        return [True, False]
    if "integer" in kinds:
        least = max(schema.get("minimum", 1), 1)
        return [least + 7, least + 8]
    if "string" in kinds:
        prefix = "/" if schema.get("pattern") == "^/" else ""
        return [prefix + "other", prefix + "another"]
    if "array" in kinds:
        items = schema.get("items")
        return [[smallest(items) if items else {"name": "other"}]]
    return [{"other": "other"}, {"another": "another"}, {"enabled": True}]


def leaves(schema, path, at, without):
    """Of each value: its path, documents that have it, and one without it. `at` makes a document of a value here."""
    items = schema.get("items", {})
    if "properties" in schema:
        for name, inner in schema["properties"].items():
            yield from leaves(inner, [*path, name], lambda value, name=name: at({name: value}), without)
        return
    yield ".".join(path), [at(value) for value in others(schema)], without
    least = smallest(items)
    for name, inner in items.get("properties", {}).items():
        item = lambda value, name=name: at([merged(least, {name: value})])
        yield from leaves(inner, [*path, "0", name], item, at([least]))


with open(f"{chart}/values.schema.json") as file:
    values = leaves(json.load(file), [], lambda value: value, {})
unread = []
for path, documents, without in values:
    said = any(path == name or path.startswith(name + ".") for name in WITHOUT_EFFECT)
    if not said and not any(changes(file, document, without) for file in files for document in documents):
        unread.append(path)
for path in unread:
    print(f"chart: values.schema.json: {path}: is taken and changes nothing", file=sys.stderr)
sys.exit(bool(unread))
