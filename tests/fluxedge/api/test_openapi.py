"""openapi.json says what the routes do, because it is made of them."""

from __future__ import annotations

import jsonschema
import pytest

from fluxedge.api.table import ROUTES
from tests.fluxedge.api.running import Running


async def test_every_route_is_described(run: Running) -> None:
    document = (await run.ask("GET", "/api/v1/openapi.json")).json
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES}
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    assert all("403" in operation["responses"] for operation in operations)


@pytest.mark.parametrize(
    "route", [r for r in ROUTES if r.method == "GET" and r.kind == "application/json"], ids=lambda r: r.name
)
async def test_what_is_answered_is_what_is_described(run: Running, route) -> None:
    document = (await run.ask("GET", "/api/v1/openapi.json")).json
    schema = document["paths"][route.path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    answer = (await run.ask("GET", route.path.replace("{id}", "boiler-1.pump"))).json
    jsonschema.validate(answer, schema | {"components": document["components"]})


async def test_a_command_and_its_result_are_described(run: Running) -> None:
    document = (await run.ask("GET", "/api/v1/openapi.json")).json
    operation = document["paths"]["/api/v1/commands"]["post"]
    components = {"components": document["components"]}
    body = {"device": "boiler-1", "point": "pump", "value": True}
    jsonschema.validate(body, operation["requestBody"]["content"]["application/json"]["schema"] | components)
    result = (await run.ask("POST", "/api/v1/commands", body)).json
    jsonschema.validate(result, operation["responses"]["200"]["content"]["application/json"]["schema"] | components)
