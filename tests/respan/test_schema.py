"""The OpenAPI document: what it says is what is served, outside judges agree, and the page made of it is current."""

import gzip
import json
import re
import uuid
from contextlib import suppress
from datetime import UTC, datetime

import pytest
import yaml
from django.core.management import call_command
from django.urls import Resolver404, URLResolver
from django.urls.resolvers import RegexPattern
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from rest_framework.views import APIView

from gateway import page_urls, params
from gateway import urls as gateway_urls
from respan import reference, schema
from respan.docs_drawing import draw
from respan.docs_pages import read
from respan.management.commands import api_reference
from tests.stack import call
from tests.traces.test_request_logs_api import REQUEST, RESPONSE
from traces import api, export
from traces import schema as logs_schema
from traces import urls as traces_urls

METHODS = ("get", "post", "patch", "delete")


def component(name):
    return {"$ref": f"#/components/schemas/{name}", "components": schema.document()["components"]}


def resolved(value):
    while "$ref" in value:
        found = schema.document()
        for name in value["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        value = found
    return value


def assert_fits(value, name):
    """Hold a value against a schema of the document."""
    errors = [
        f"{error.json_path}: {error.message}" for error in Draft202012Validator(component(name)).iter_errors(value)
    ]
    assert errors == []


def members(name):
    """Return the members that the document knows of a schema, those it shares included."""
    found = resolved({"$ref": f"#/components/schemas/{name}"})
    names = set(found.get("properties", {}))
    for each in found.get("allOf", ()):
        names |= set(resolved(each).get("properties", {}))
    return names


# --- The document ----------------------------------------------------------------------------------------------------


def test_the_command_of_spectacular_validates_it_without_a_warning(tmp_path):
    call_command("spectacular", validate=True, fail_on_warn=True, file=str(tmp_path / "schema.yaml"))
    assert yaml.safe_load((tmp_path / "schema.yaml").read_text())["openapi"].startswith("3.1")


def test_it_is_valid_openapi_3_1():
    assert schema.document()["openapi"].startswith("3.1")
    assert [error.message for error in OpenAPIV31SpecValidator(schema.document()).iter_errors()] == []


def test_every_reference_leads_somewhere_and_every_component_is_used():
    text = schema.written("json").decode()
    wanted = set(re.findall(r'"\$ref":"#/components/([^"]+)"', text))
    kept = {
        f"{kind}/{name}"
        for kind, named in schema.document()["components"].items()
        if kind != "securitySchemes"
        for name in named
    }
    assert wanted - kept == set()
    assert kept - wanted <= {"schemas/ChatCompletionChunk"}  # the text of a stream's events names it


def test_every_example_fits_its_schema():
    for path, methods in schema.document()["paths"].items():
        for operation in methods.values():
            for kind, media in operation.get("requestBody", {}).get("content", {}).items():
                if kind == "application/json" and "example" in media:
                    wanted = {**media["schema"], "components": schema.document()["components"]}
                    assert Draft202012Validator(wanted).is_valid(media["example"]), path


def test_a_document_that_says_something_twice_is_refused():
    with pytest.raises(ValueError, match=r"/api/models"):
        schema.with_gateway({"paths": {"/api/models": {}}, "components": {}})


# --- Routes ----------------------------------------------------------------------------------------------------------


def served():
    """Return (route, method) of every endpoint of the gateway and of the management API."""
    found = set()
    for pattern in [*gateway_urls.urlpatterns, *traces_urls.urlpatterns, *page_urls.urlpatterns]:
        view = getattr(pattern.callback, "view_class", None)
        if view is not None and issubclass(view, APIView):
            found |= {(str(pattern.pattern), method) for method in METHODS if hasattr(view, method)}
    return found


def described():
    """Return (route, method) of every operation of the document, through the resolver."""
    modules = ("gateway.urls", "traces.urls", "gateway.page_urls")
    resolvers = [URLResolver(RegexPattern(r"^/"), module) for module in modules]
    found = set()
    for path, methods in schema.document()["paths"].items():
        for method, operation in methods.items():
            parameters = [resolved(each) for each in operation.get("parameters", ())]
            examples = {each["name"]: each.get("example", "log_x") for each in parameters if each["in"] == "path"}
            address = re.sub(r"\{(\w+)\}", lambda match, known=examples: known[match[1]], path)
            found.add((route(resolvers, address), method))
    return found


def route(resolvers, address):
    """Return the pattern that an address leads to."""
    for each in resolvers:
        with suppress(Resolver404):
            return each.resolve(address).route.removeprefix("^/")
    return f"nobody serves {address}"


def test_the_document_and_the_routes_are_the_same():
    assert described() == served()


def test_every_operation_has_a_name_a_summary_a_tag_and_its_errors():
    tags = {tag["name"] for tag in schema.document()["tags"]}
    names = []
    for methods in schema.document()["paths"].values():
        for operation in methods.values():
            names.append(operation["operationId"])
            assert operation["summary"]
            assert set(operation["tags"]) <= tags
            assert {"4XX", "5XX"} < operation["responses"].keys()
    assert len(names) == len(set(names))


def test_every_member_and_every_parameter_says_what_it_is():
    silent = []
    for name, shape in schema.document()["components"]["schemas"].items():
        for member, each in shape.get("properties", {}).items():
            if not each.get("description") and "$ref" not in each:
                silent.append(f"{name}.{member}")
    for methods in schema.document()["paths"].values():
        for operation in methods.values():
            silent += [
                each["name"] for each in operation.get("parameters", ()) if not resolved(each).get("description")
            ]
    assert silent == []


# --- What the code knows ---------------------------------------------------------------------------------------------


def test_it_has_exactly_the_parameters_of_respan_that_act():
    assert members("RespanParams") == params.ACTING | {"respan_params"}


def test_it_has_exactly_the_parameters_of_a_list_of_logs():
    listed = {each["name"] for each in schema.document()["paths"]["/api/request-logs/list/"]["get"]["parameters"]}
    assert listed - {"field", "log_type"} == api._PARAMETERS - {"format", "fetch_filters"}
    assert members("RequestLogQuery") - {"log_type"} == api._PARAMETERS - {"format", "fetch_filters"}


def test_it_has_exactly_the_fields_of_a_log():
    fields = set(logs_schema.RequestLog().fields)
    assert members("RequestLog") == fields
    assert fields >= export.CONTENT_FIELDS


# --- The view --------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
class TestView:
    def test_it_is_json_for_everybody_and_asks_no_table(self, client, django_assert_num_queries):
        with django_assert_num_queries(0):
            response = client.get("/api/schema/")
        assert (response.status_code, response["Content-Type"]) == (200, "application/json")
        assert json.loads(response.content) == schema.document()
        assert "Accept" in response["Vary"]
        assert not response.cookies

    @pytest.mark.parametrize(
        ("address", "accept", "kind"),
        [
            ("/api/schema?format=yaml", "*/*", "application/yaml"),
            ("/api/schema/", "application/yaml", "application/yaml"),
            ("/api/schema/", "application/vnd.oai.openapi", "application/yaml"),
            ("/api/schema/", "text/html, */*;q=0.1", "application/json"),
            ("/api/schema/?format=json", "application/yaml", "application/json"),
            ("/api/schema/", "nonsense", "application/json"),
        ],
    )
    def test_the_form_is_chosen_by_the_address_then_by_accept(self, client, address, accept, kind):
        response = client.get(address, headers={"Accept": accept})
        assert (response.status_code, response["Content-Type"]) == (200, kind)
        assert yaml.safe_load(response.content) == schema.document()

    def test_an_unknown_form_and_another_method_are_refused_as_by_the_api(self, client):
        response = client.get("/api/schema/?format=xml")
        assert (response.status_code, response.json()["param"]) == (400, "format")
        response = client.post("/api/schema/", {})
        assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
        assert response["Allow"] == "GET, HEAD"

    def test_who_has_it_already_is_told_so(self, client):
        first = client.get("/api/schema/")
        again = client.get("/api/schema/", headers={"If-None-Match": first["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.get("/api/schema/?format=yaml")["ETag"] != first["ETag"]

    def test_it_is_built_once_for_a_process(self):
        assert schema.written("json") is schema.written("json")
        assert schema.written("yaml") is schema.written("yaml")


# --- The page --------------------------------------------------------------------------------------------------------


def test_the_page_in_the_docs_is_the_one_the_document_gives():
    call_command("api_reference", check=True)


def test_the_page_shows_every_endpoint_and_every_shape_and_no_link_is_dead():
    page = read("api/reference", api_reference.FILE.read_text(encoding="utf-8"))
    html = draw(page).html
    anchors = re.findall(r'<h[1-6] id="([^"]+)"', html)
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(anchors)
    assert {name.lower() for name in schema.document()["components"]["schemas"]} <= set(anchors)
    for path, methods in schema.document()["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in html
    assert len(gzip.compress(html.encode())) < 80_000


def test_a_sample_needs_no_shell_that_a_reader_has_not():
    text = reference.page(schema.document())
    samples = re.findall(r"```bash( no-run)?\n(.*?)```", text, re.S)
    assert len(samples) == sum(len(methods) for methods in schema.document()["paths"].values())
    assert all(sample.startswith("# ") == bool(kept) for kept, sample in samples)


# --- Real answers ----------------------------------------------------------------------------------------------------

HELLO = [{"role": "user", "content": "Hello"}]
CONTENTS = [{"role": "user", "parts": [{"text": "Hello"}]}]
MESSAGES = "/api/anthropic/v1/messages"
GOOGLE = "/api/google/gemini/v1beta/models"


def test_answers_of_the_running_product_fit(tenant):
    one = tenant(credits_usd="5")
    echo = {"model": "sandbox/echo"}
    for path, body, name in [
        ("/api/chat/completions", {**echo, "messages": HELLO}, "ChatCompletion"),
        ("/api/responses", {**echo, "input": "Hello"}, "Response"),
        (MESSAGES, {**echo, "max_tokens": 64, "messages": HELLO}, "Message"),
        (f"{GOOGLE}/sandbox/echo:generateContent", {"contents": CONTENTS}, "GenerateContentResponse"),
        ("/api/embeddings", {"model": "fake/embedding", "input": "Hello"}, "EmbeddingList"),
    ]:
        answer = one.post(body, path=path)
        assert answer.status == 200, answer.body
        assert_fits(answer.json, name)
        assert answer.log_id.startswith("log_")


def test_counts_of_the_running_product_fit(tenant):
    one = tenant()
    counted = one.post({"model": "sandbox/echo", "messages": HELLO}, path=f"{MESSAGES}/count_tokens")
    assert (list(counted.json), counted.headers["x-respan-estimated"]) == (["input_tokens"], "true")
    counted = one.post({"contents": CONTENTS}, path=f"{GOOGLE}/sandbox/echo:countTokens")
    assert (list(counted.json), counted.headers["x-respan-estimated"]) == (["totalTokens"], "true")


def test_lists_of_models_of_the_running_product_fit(tenant):
    one = tenant()
    for path, name in [
        ("/api/models", "ModelList"),
        ("/api/anthropic/v1/models", "AnthropicModelList"),
        ("/api/anthropic/v1/models/sandbox%2Fecho", "AnthropicModel"),
        (GOOGLE, "GoogleModelList"),
    ]:
        answer = call(one.stack.base_url + path, key=one.key)
        assert answer.status == 200, answer.body
        assert_fits(answer.json, name)
    listed = call(f"{one.stack.base_url}/api/models", key=one.key).json["data"][0]
    assert set(listed) == members("Model") | members("ModelEntry")
    public = call(f"{one.stack.base_url}/api/models/public/").json["models"]
    assert_fits(public[0], "ModelEntry")


def test_logs_of_the_running_product_fit(tenant):
    one = tenant()
    log_id = one.chat("sandbox/echo", temperature=0.5, metadata={"team": "docs"}, customer_identifier="ada").log_id
    log = one.log(log_id)
    assert_fits(log, "RequestLog")
    assert set(log) <= members("RequestLog")
    answer = call(f"{one.stack.base_url}/api/request-logs/list/?metadata__team=docs", key=one.key)
    assert_fits(answer.json, "RequestLogPage")
    assert [each["id"] for each in answer.json["results"]] == [log_id]
    wanted = {"filters": {"customer_identifier": {"operator": "eq", "value": "ada"}}, "include_fields": ["model"]}
    assert_fits(wanted, "RequestLogQuery")
    answer = one.post(wanted, path="/api/request-logs/list/")
    assert_fits(answer.json, "RequestLogPage")
    assert set(answer.json["results"][0]) == {"id", "unique_id", "model"}


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/api/chat/completions", {"model": "no-such-model", "messages": HELLO}, "OpenAIError"),
        ("/api/chat/completions", b"{", "OpenAIError"),
        ("/api/responses", {"model": "sandbox/echo"}, "OpenAIError"),
        ("/api/files/file-none", None, "OpenAIError"),
        ("/api/openai/v1/chat/completions", {"model": "gpt-4o-mini", "messages": HELLO}, "OpenAIError"),
        (MESSAGES, {"model": "no-such-model", "messages": HELLO}, "AnthropicError"),
        (f"{GOOGLE}/none:generateContent", {"contents": CONTENTS}, "GoogleError"),
        (f"{GOOGLE}/sandbox/echo:generateContent", {}, "GoogleError"),
        ("/api/request-logs/log_none/", None, "ManagementError"),
        ("/api/request-logs/list/", {"filters": 1}, "ManagementError"),
    ],
)
def test_errors_of_the_running_product_fit_with_and_without_a_key(tenant, path, body, name):
    one = tenant()
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    for key, statuses in ((one.key, {400, 404}), (None, {401})):
        answer = call(one.stack.base_url + path, key=key, body=data)
        assert answer.status in statuses, answer.body
        assert_fits(answer.json, name)


@pytest.mark.django_db
def test_a_log_with_everything_fits(client, cast):
    from accounts import keys
    from tests.traces.rows import insert_call

    issued = keys.issue(organization=cast.organization, name="Docs", environment="production", created_by=None)
    span_id = insert_call(
        organization_id=cast.organization.pk,
        request=REQUEST,
        response=RESPONSE,
        started_at=datetime.now(UTC),
        api_key_id=issued.api_key.pk,
    )
    found = uuid.UUID(str(span_id))
    log = client.get(f"/api/request-logs/{found}/", headers={"Authorization": f"Bearer {issued.secret}"}).json()
    assert_fits(log, "RequestLog")
    assert set(log) <= members("RequestLog")
