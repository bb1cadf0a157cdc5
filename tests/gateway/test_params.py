"""Promises of `gateway.params`: which carrier wins, what is cut, what is refused."""

import base64
import json

import msgspec
import pytest

from gateway import params


def members(**values):
    return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in values.items()}


def header(value):
    return {"HTTP_X_DATA_RESPAN_PARAMS": value}


def test_a_plain_request_has_no_parameters():
    assert params.gather(members(model="m", messages=[]), {}) is params.NONE


def test_respan_params_win_over_the_header_which_wins_over_the_top_level():
    body = members(custom_identifier="top", thread_identifier="top", respan_params={"custom_identifier": "object"})
    encoded = base64.b64encode(b'{"custom_identifier": "header", "thread_identifier": "header"}').decode()

    found = params.gather(body, header(encoded))

    assert (found.custom_identifier, found.thread_identifier) == ("object", "header")


def test_the_header_may_be_raw_json():
    assert params.gather({}, header('{"custom_identifier": "raw"}')).custom_identifier == "raw"


def test_the_older_names_still_count():
    assert params.gather(members(keywordsai_params={"custom_identifier": "old"}), {}).custom_identifier == "old"
    found = params.gather({}, {"HTTP_X_DATA_KEYWORDSAI_PARAMS": '{"custom_identifier": "old"}'})
    assert found.custom_identifier == "old"


def test_a_carrier_that_is_a_json_string_is_read():
    assert params.gather(members(respan_params='{"custom_identifier": "text"}'), {}).custom_identifier == "text"


@pytest.mark.parametrize("value", ["not base64!", "bm90IGpzb24=", "[1]", "", "/w=="])
def test_a_header_that_is_no_object_is_ignored(value):
    assert params.gather({}, header(value)).custom_identifier is None


@pytest.mark.parametrize("value", [[1], 7, None, "[]"])
def test_a_carrier_that_is_no_object_is_ignored_with_a_warning(value):
    found = params.gather(members(respan_params=value), {})
    assert found.warnings == ["respan_params is not an object and was ignored"]


def test_the_customer_of_customer_params_wins():
    found = params.gather(
        members(
            customer_identifier="outer",
            customer_params={"customer_identifier": "inner", "name": "Ada", "email": "a@b.c"},
        ),
        {},
    )
    assert (found.customer_identifier, found.customer_name, found.customer_email) == ("inner", "Ada", "a@b.c")


def test_long_identifiers_are_cut_with_a_warning():
    found = params.gather(members(customer_identifier="x" * 300), {})
    assert found.customer_identifier == "x" * 254
    assert found.warnings == ["customer_identifier was cut to 254 characters"]


def test_a_number_serves_as_an_identifier():
    assert params.gather(members(customer_identifier=42), {}).customer_identifier == "42"


def test_what_postgresql_cannot_store_is_taken_out():
    assert params.gather(members(custom_identifier="a\0b"), {}).custom_identifier == "ab"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("customer_identifier", ["x"]),
        ("metadata", [1]),
        ("disable_log", "yes"),
        ("customer_params", "x"),
        ("thread_identifier", True),
    ],
)
def test_a_wrong_type_is_refused_by_name(name, value):
    with pytest.raises(params.InvalidRequest) as refused:
        params.gather(members(**{name: value}), {})
    assert refused.value.param == name


def test_metadata_values_become_text():
    found = params.gather(members(metadata={"a": 1, "b": True, "c": {"d": None}, "e": "text"}), {})
    assert found.metadata == {"a": "1", "b": "true", "c": '{"d":null}', "e": "text"}


def test_parameters_of_later_versions_are_named_in_a_warning():
    found = params.gather(members(echo=True, prompt={"prompt_id": "x"}), {})
    assert found.warnings == ["echo has no effect yet", "prompt has no effect yet"]


def test_what_acts_is_named_in_no_warning():
    assert not params.ACTING & params.ANNOUNCED
    found = params.gather(
        members(
            fallback_models=["a", "b", "a"],
            cache_enabled=True,
            retry_params={"retry_enabled": True},
            timeout=20,
            customer_params={"rate_limit": 60},
        ),
        {},
    )
    assert found.warnings == []
    assert (found.fallback_models, found.customer_rate_limit) == (("a", "b"), 60)


def test_budgets_of_customers_are_accepted_with_a_warning():
    found = params.gather(members(customer_params={"period_budget": 5, "budget_duration": "daily"}), {})
    assert found.warnings == [
        "customer_params.budget_duration has no effect yet",
        "customer_params.period_budget has no effect yet",
    ]


def test_a_call_without_parameters_about_its_way_says_nothing_about_it():
    assert not params.NONE.routes
    assert not params.gather(members(customer_identifier="u", cache_enabled=True, retry_params={}), {}).routes


@pytest.mark.parametrize(
    "given",
    [
        {"fallback_models": []},
        {"fallback_models": ["a"]},
        {"disable_fallback": True},
        {"models": ["a"]},
        {"exclude_models": ["a"]},
        {"exclude_providers": ["a"]},
        {"load_balance_models": [{"model": "a"}]},
        {"load_balance_group": {"group_id": "g"}},
        {"customer_credentials": {"openai": {"api_key": "k"}}},
        {"credential_override": {"m": {"api_key": "k"}}},
        {"customer_api_keys": {"m": "k"}},
        {"model_name_map": {"m": "azure/d"}},
        {"route_provider_override": "azure"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_what_says_where_a_call_goes_is_seen_in_every_carrier(given):
    whole = json.dumps(given)
    assert params.gather(members(**given), {}).routes
    assert params.gather(members(respan_params=given), {}).routes
    assert params.gather(members(keywordsai_params=given), {}).routes
    assert params.gather({}, header(whole)).routes
    assert params.gather({}, header(base64.b64encode(whole.encode()).decode())).routes


# --- Where a call goes -----------------------------------------------------------------------------------------------


def refused(**given):
    with pytest.raises(params.InvalidRequest) as refusal:
        params.gather(members(**given), {})
    return refusal.value


def test_an_empty_list_of_fallbacks_is_not_the_organizations():
    assert params.gather(members(fallback_models=[]), {}).fallback_models == ()
    assert params.gather(members(fallback_models=None, models=["a"]), {}).fallback_models is None


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"disable_fallback": True, "fallback_models": ["a"]}, "disable_fallback"),
        ({"disable_fallback": True, "models": ["a", "b"]}, "disable_fallback"),
        ({"route_provider_override": "azure", "exclude_providers": ["azure"]}, "exclude_providers"),
        ({"load_balance_models": [{"model": "a"}], "loadbalance_models": [{"model": "a"}]}, "loadbalance_models"),
        (
            {"load_balance_group": {"group_id": "g"}, "load_balance_models": [{"model": "a"}]},
            "load_balance_models",
        ),
        ({"first_token_timeout": 30, "timeout": 20}, "first_token_timeout"),
    ],
)
def test_parameters_that_contradict_each_other_are_refused_by_name(given, named):
    refusal = refused(**given)
    assert refusal.param == named
    assert "contradict" in refusal.message
    assert all(name in refusal.message for name in given)


@pytest.mark.parametrize(
    ("given", "unknown"),
    [
        ({"retry_params": {"retry_enabled": True, "retires": 3}}, "retires"),
        ({"cache_options": {"by_customer": True}}, "by_customer"),
        ({"load_balance_group": {"group_id": "g", "strategy": "cost"}}, "strategy"),
        ({"load_balance_models": [{"model": "a", "wieght": 3}]}, "wieght"),
        ({"credential_override": {"m": {"api_key": "k", "apikey": "k"}}}, "apikey"),
        ({"customer_credentials": {"openai": {"key": "k"}}}, "key"),
        ({"customer_credentials": [{"credentials": {"openai": {"api_key": "k"}}, "model": "m"}]}, "model"),
    ],
)
def test_an_unknown_member_of_an_object_of_ours_is_refused_by_name(given, unknown):
    refusal = refused(**given)
    assert f"unknown members: {unknown}" in refusal.message
    assert refusal.param.startswith(next(iter(given)))


@pytest.mark.parametrize(
    "given",
    [
        {"fallback_models": "gpt-4o"},
        {"fallback_models": [1]},
        {"fallback_models": [""]},
        {"fallback_models": ["x" * 257]},
        {"fallback_models": ["a"] * 65},
        {"disable_fallback": "yes"},
        {"models": {"a": 1}},
        {"exclude_models": "a"},
        {"exclude_providers": [None]},
        {"load_balance_group": "g"},
        {"load_balance_group": {}},
        {"load_balance_group": {"group_id": 7}},
        {"load_balance_models": [{"weight": 1}]},
        {"load_balance_models": [{"model": "a", "weight": 0}]},
        {"load_balance_models": [{"model": "a", "weight": 1.5}]},
        {"load_balance_models": [{"model": "a", "weight": True}]},
        {"load_balance_models": [{"model": "a", "credentials": "cred_1"}]},
        {"customer_credentials": "sk-x"},
        {"customer_credentials": {"openai": "sk-x"}},
        {"customer_credentials": {"openai": {}}},
        {"customer_credentials": [{"weight": 1}]},
        {"customer_credentials": [{"credentials": {"openai": {"api_key": "k"}}, "weight": -1}]},
        {"credential_override": {"m": {"api_base": "https://a.example"}}},
        {"credential_override": {"m": {"api_key": 7}}},
        {"credential_override": {"m": {"api_key": "x" * 9000}}},
        {"credential_override": {"m": {"api_key": "k", "vertex_credentials": "k"}}},
        {"credential_override": {"m": {"api_key": "k", "api_base": "https://a.x", "base_url": "https://b.x"}}},
        {"customer_api_keys": {"m": ""}},
        {"customer_api_keys": ["k"]},
        {"model_name_map": {"m": 1}},
        {"model_name_map": "azure/d"},
        {"route_provider_override": ["azure"]},
        {"retry_params": True},
        {"retry_params": {"num_retries": 0}},
        {"retry_params": {"num_retries": "3"}},
        {"retry_params": {"retry_after": 0}},
        {"retry_params": {"retry_after": -1}},
        {"retry_params": {"retry_enabled": 1}},
        {"timeout": 0},
        {"timeout": "10"},
        {"timeout": True},
        {"first_token_timeout": -3},
        {"cache_enabled": "true"},
        {"cache_ttl": 0},
        {"cache_ttl": 10.5},
        {"cache_ttl": 2_592_001},
        {"cache_options": []},
        {"cache_options": {"omit_log": "no"}},
        {"request_breakdown": 1},
        {"customer_params": {"rate_limit": 0}},
        {"customer_params": {"rate_limit": "60"}},
    ],
    ids=json.dumps,
)
def test_what_cannot_be_acted_upon_is_refused_by_name(given):
    assert refused(**given).param.startswith(next(iter(given)))
    with pytest.raises(params.InvalidRequest):
        params.gather({}, header(json.dumps(given)))


def test_a_group_is_named_by_its_id_or_given_whole():
    named = params.gather(members(load_balance_group={"group_id": "fast"}), {}).load_balance
    assert named == params.Balance("fast")
    given = params.gather(
        members(load_balance_group={"group_id": "fast", "models": [{"model": "a", "weight": 3}, {"model": "b"}]}), {}
    ).load_balance
    assert given == params.Balance("fast", (params.Member("a", 3), params.Member("b", 1)))


@pytest.mark.parametrize("name", ["load_balance_models", "loadbalance_models"])
def test_both_names_of_the_inline_group_count(name):
    found = params.gather(members(**{name: [{"model": "a", "credentials": ["cred_1"]}]}), {})
    assert found.load_balance == params.Balance(None, (params.Member("a", 1, ("cred_1",)),))


def test_an_empty_inline_group_is_none():
    assert params.gather(members(load_balance_models=[]), {}).load_balance is None


def test_the_header_of_its_own_names_the_provider_and_the_object_wins_over_it():
    route = {"HTTP_X_RESPAN_ROUTE_PROVIDER": " vertex_ai "}
    assert params.gather(members(model="m"), route).route_provider == "vertex_ai"
    assert params.gather(members(route_provider_override="azure"), route).route_provider == "vertex_ai"
    in_object = members(respan_params={"route_provider_override": "azure"})
    assert params.gather(in_object, route).route_provider == "azure"


# --- Keys in a request -----------------------------------------------------------------------------------------------

CANARY = "sk-canary-51d8a7f0c2"


@pytest.mark.parametrize(
    "given",
    [
        {"customer_credentials": {"openai": {"api_key": CANARY}}},
        {"customer_credentials": [{"credentials": {"openai": {"api_key": CANARY}}, "weight": 2}]},
        {"credential_override": {"gpt-4o": {"api_key": CANARY, "api_base": "https://llm.example.com/v1"}}},
        {"customer_api_keys": {"gpt-4o": CANARY}},
        {"load_balance_models": [{"model": "gpt-4o", "credentials": {"api_key": CANARY}}]},
    ],
)
def test_nothing_can_show_a_key_that_came_with_a_request(given):
    found = params.gather(members(**given), {})
    assert found.routes
    assert CANARY not in repr(found) + str(found) + f"{found}"


@pytest.mark.parametrize(
    "given",
    [
        {"customer_credentials": {"openai": {"api_key": CANARY, "region": CANARY}}},
        {"customer_credentials": {"openai": CANARY}},
        {"customer_credentials": CANARY},
        {"credential_override": {"gpt-4o": [CANARY]}},
        {"credential_override": {"gpt-4o": {"api_key": {"secret": CANARY * 500}}}},
        {"customer_api_keys": {"gpt-4o": [CANARY]}},
        {"load_balance_models": [{"model": "gpt-4o", "credentials": CANARY}]},
    ],
)
def test_no_refusal_repeats_a_key(given):
    assert CANARY not in refused(**given).message


def test_the_newer_name_of_an_override_wins():
    found = params.gather(
        members(customer_api_keys={"a": "old", "b": "old"}, credential_override={"a": {"api_key": "new"}}), {}
    )
    keys = {model: account.secret.reveal() for model, account in found.credential_override.items()}
    assert keys == {"a": "new", "b": "old"}


def test_an_account_of_aws_is_given_in_its_parts():
    given = {"aws_access_key_id": "AKIAX", "aws_secret_access_key": "s/ecret", "aws_region_name": "eu-west-1"}
    account = (
        params.gather(members(customer_credentials={"bedrock": given}), {}).customer_credentials[0].keys["bedrock"]
    )
    assert json.loads(account.secret.reveal()) == {"aws_access_key_id": "AKIAX", "aws_secret_access_key": "s/ecret"}
    assert account.places == {"REGION": "eu-west-1"}


def test_an_account_of_google_is_given_as_its_file():
    given = {"vertex_credentials": {"type": "service_account"}, "vertex_project": "p-1", "vertex_location": "us-east5"}
    account = params.gather(members(credential_override={"gemini-2.5-pro": given}), {}).credential_override[
        "gemini-2.5-pro"
    ]
    assert json.loads(account.secret.reveal()) == {"type": "service_account"}
    assert account.places == {"PROJECT": "p-1", "LOCATION": "us-east5"}


def test_a_version_of_azures_api_is_named_in_a_warning():
    found = params.gather(members(credential_override={"m": {"api_key": "k", "api_version": "2024-10-21"}}), {})
    assert found.warnings == ["credential_override.m.api_version has no effect: the API without versions is called"]


# --- How it is carried out -------------------------------------------------------------------------------------------


def test_what_retry_params_leave_out_is_as_the_sdk_has_it():
    assert params.gather(members(retry_params={}), {}).retry == params.Retry(True, 3, 0.2)
    given = {"retry_enabled": False, "num_retries": 1, "retry_after": 2}
    assert params.gather(members(retry_params=given), {}).retry == params.Retry(False, 1, 2.0)
    assert params.gather(members(retry_params=None, timeout=5), {}).retry is None


def test_time_limits_are_taken_to_their_bounds_with_a_warning():
    found = params.gather(members(timeout=600, first_token_timeout=0.2), {})
    assert found.timeouts == params.Timeouts(590.0, 1.0)
    assert found.warnings == [
        "timeout was set to 590: it can be 1 to 590 seconds",
        "first_token_timeout was set to 1: it can be 1 to 590 seconds",
    ]
    assert params.gather(members(timeout=12.5), {}).timeouts == params.Timeouts(12.5, None)


def test_the_cache_is_as_the_request_says_and_the_rest_as_the_organization_has_it():
    found = params.gather(members(cache_enabled=True, cache_ttl=60, cache_options={"cache_by_customer": True}), {})
    assert found.cache == params.Cache(True, 60, True, None, None)
    assert params.gather(members(cache_options={}, timeout=5), {}).cache is None
