"""Promises of `gateway.signing`: AWS's own test vectors, tokens others can check, and no secret in any message."""

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import signing
from gateway.signing import AccessKey, BearerKey, Scope

KEY_ID = "AKIDEXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
VECTORS_AT = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)

# AWS's test suite for signature version 4: (method, path, query, headers, body) -> signature.
VECTORS = {
    "get-vanilla": (("GET", "/"), "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    "post-vanilla": (("POST", "/"), "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    "get-vanilla-query-order-key-case": (
        ("GET", "/?Param2=value2&Param1=value1"),
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    "get-vanilla-query-order-value": (
        ("GET", "/?Param1=value2&Param1=value1"),
        "5772eed61e12b33fae39ee5e7012498b51d56abc0abb7c60486157bd471c4694",
    ),
    "get-vanilla-query-order-key": (
        ("GET", "/?Param1=value2&Param1=Value1"),
        "eedbc4e291e521cf13422ffca22be7d2eb8146eecf653089df300a15b2382bd1",
    ),
    "get-unreserved": (
        ("GET", "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"),
        "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
    ),
    "get-utf8": (("GET", "/\u1234"), "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
    "get-relative": (("GET", "/example/.."), "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    "get-relative-relative": (
        ("GET", "/example1/example2/../.."),
        "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
    ),
    "get-slash": (("GET", "//"), "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    "get-slashes": (("GET", "//example//"), "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84"),
    "get-slash-pointless-dot": (
        ("GET", "/./example"),
        "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5",
    ),
    "get-space": (("GET", "/example space/"), "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741"),
    "get-header-value-trim": (
        ("GET", "/", {"My-Header1": " value1", "My-Header2": ' "a   b   c"'}),
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    ),
    "post-header-key-sort": (
        ("POST", "/", {"My-Header1": "value1"}),
        "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
    ),
    "post-header-value-case": (
        ("POST", "/", {"My-Header1": "VALUE1"}),
        "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
    ),
    "post-x-www-form-urlencoded": (
        ("POST", "/", {"Content-Type": "application/x-www-form-urlencoded"}, b"Param1=value1"),
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
}
MODELS = [
    "anthropic.claude-3-5-sonnet-20240620-v1:0",
    "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-20250514-v1:0",
    "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abc123",
]


def signed(method, path, headers=None, body=b"", **changes):
    values = {
        "method": method,
        "url": "https://example.amazonaws.com" + path,
        "headers": headers or {},
        "body": body,
        "access_key_id": KEY_ID,
        "secret_access_key": SECRET,
        "session_token": None,
        "region": "us-east-1",
        "service": "service",
        "now": VECTORS_AT,
    }
    return signing.sigv4(**{**values, **changes})


# --- AWS signatures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("request_", "signature"), VECTORS.values(), ids=VECTORS)
def test_a_signature_is_the_one_of_awss_test_vectors(request_, signature):
    assert signed(*request_)["Authorization"].endswith(f"Signature={signature}")


def test_the_header_says_who_signed_what_for_which_day_and_region():
    headers = signed("POST", "/", {"Content-Type": "application/json", "X-Amz-Target": "a"}, session_token="token+/=")
    assert headers["X-Amz-Date"] == "20150830T123600Z"
    assert headers["X-Amz-Security-Token"] == "token+/="
    assert headers["Authorization"].startswith(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, Signature="
    )


def test_what_a_proxy_may_change_is_not_signed():
    plain = signed("POST", "/")
    assert signed("POST", "/", {"User-Agent": "x", "Connection": "close", "Transfer-Encoding": "chunked"}) == plain


def test_the_time_of_another_zone_is_the_same_time_and_a_time_without_zone_is_refused():
    elsewhere = VECTORS_AT.astimezone(timezone(timedelta(hours=9)))
    assert signed("GET", "/", now=elsewhere) == signed("GET", "/")
    with pytest.raises(ValueError, match="time zone"):
        signed("GET", "/", now=VECTORS_AT.replace(tzinfo=None))


def test_a_path_is_encoded_once_more_than_on_the_wire():
    # What botocore 1.44 makes of it.
    url = "https://bedrock-runtime.us-east-1.amazonaws.com/model/anthropic.claude-v2%3A1/converse"
    headers = signed("POST", "", url=url, service="bedrock", body=b"{}")
    assert headers["Authorization"].endswith("2398f5dbf5ee7047902d5e21800081840d98be651455854f8acda4d48de8475e")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("token", [None, "FQoGZXIvYXdzE//+tok=="])
@pytest.mark.parametrize("host", ["bedrock-runtime.us-east-1.amazonaws.com", "localhost:8443"])
def test_botocore_signs_the_urls_of_bedrock_alike(model, token, host, monkeypatch):
    auth = pytest.importorskip("botocore.auth")
    awsrequest = pytest.importorskip("botocore.awsrequest")
    credentials = pytest.importorskip("botocore.credentials")
    monkeypatch.setattr(auth, "get_current_datetime", lambda *_, **__: VECTORS_AT.replace(tzinfo=None))
    url = f"https://{host}/model/{quote(model, safe='')}/converse-stream"
    headers = {"content-type": "application/json"}
    theirs = awsrequest.AWSRequest(method="POST", url=url, data=b'{"messages":[]}', headers=headers)
    auth.SigV4Auth(credentials.Credentials(KEY_ID, SECRET, token), "bedrock", "us-east-1").add_auth(theirs)
    ours = signed("POST", "", url=url, headers=headers, body=b'{"messages":[]}', session_token=token, service="bedrock")
    assert ours["Authorization"] == theirs.headers["Authorization"]


# --- What a person pastes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"access_key_id": "AKIAEXAMPLE", "secret_access_key": "s/e+c"}',
        '{"aws_access_key_id": "AKIAEXAMPLE", "aws_secret_access_key": "s/e+c", "region": "us-east-1"}',
        '{"AccessKeyId": "AKIAEXAMPLE", "SecretAccessKey": "s/e+c"}',
        '{"Credentials": {"AccessKeyId": "AKIAEXAMPLE", "SecretAccessKey": "s/e+c", "Expiration": "2026"}}',
        '  {"access_key_id": " AKIAEXAMPLE ", "secret_access_key": "s/e+c", "session_token": ""}\n',
        'export AWS_ACCESS_KEY_ID="AKIAEXAMPLE"\nexport AWS_SECRET_ACCESS_KEY="s/e+c"\n',
        "[default]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = s/e+c\n",
    ],
)
def test_an_access_key_is_understood_as_aws_and_people_write_it(text):
    assert signing.aws_secret(text) == AccessKey("AKIAEXAMPLE", "s/e+c", None)


def test_a_temporary_key_has_its_session_token():
    text = '{"access_key_id": "ASIAEXAMPLE", "secret_access_key": "s", "session_token": "t=="}'
    assert signing.aws_secret(text) == AccessKey("ASIAEXAMPLE", "s", "t==")


@pytest.mark.parametrize(
    "text", ["ABSKQmVkcm9ja0FQSUtleS1leGFtcGxl", " bedrock-api-key-YmVk+/== \n", "AWS_BEARER_TOKEN_BEDROCK=ABSKx="]
)
def test_anything_else_without_spaces_is_a_bedrock_key(text):
    key = text.strip().removeprefix("AWS_BEARER_TOKEN_BEDROCK=")
    assert signing.aws_secret(text) == BearerKey(key)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no Bedrock API key"),
        ("two words", "no Bedrock API key"),
        ("AKIAIOSFODNN7EXAMPLE", "without its secret"),
        ('{"access_key_id": "AKIAHUSH"', "not valid"),
        ('{"access_key_id": "AKIAHUSH"}', "secret_access_key is missing"),
        ('{"secret_access_key": "hush"}', "access_key_id is missing"),
        ('{"access_key_id": "AKIAHUSH", "secret_access_key": "hush hush"}', "secret_access_key has spaces"),
        ('{"access_key_id": 7, "secret_access_key": "hush"}', "access_key_id is missing"),
    ],
)
def test_what_is_no_secret_is_refused_with_advice_and_without_a_word_of_it(text, why):
    with pytest.raises(ValueError, match=why) as caught:
        signing.aws_secret(text)
    assert "hush" not in str(caught.value).lower()
    assert "Bedrock API key" in str(caught.value)


@settings(deadline=None)
@given(st.text(max_size=60) | st.text(max_size=30).map(lambda text: "{" + text) | st.text().map(json.dumps))
def test_no_text_troubles_the_parser(text):
    try:
        assert signing.aws_secret(text)
    except ValueError as error:
        assert "Bedrock API key" in str(error)  # noqa: PT017


def test_secrets_do_not_show_in_a_repr():
    shown = repr(AccessKey("AKIAEXAMPLE", "hush", "hush")) + repr(BearerKey("hush"))
    assert "hush" not in shown
    assert "AKIAEXAMPLE" in shown


@pytest.mark.parametrize(
    ("url", "scope"),
    [
        ("https://bedrock-runtime.us-east-1.amazonaws.com", Scope("us-east-1", "bedrock")),
        ("https://bedrock-runtime-fips.us-gov-west-1.amazonaws.com/x", Scope("us-gov-west-1", "bedrock")),
        ("https://bedrock-runtime.cn-north-1.amazonaws.com.cn", Scope("cn-north-1", "bedrock")),
        ("https://vpce-1a-2b.bedrock-runtime.ap-southeast-2.vpce.amazonaws.com", Scope("ap-southeast-2", "bedrock")),
        ("https://bedrock-mantle.us-west-2.api.aws/v1", Scope("us-west-2", "bedrock-mantle")),
    ],
)
def test_the_host_says_region_and_service(url, scope):
    assert signing.aws_scope(url) == scope


@pytest.mark.parametrize("url", ["https://api.openai.com/v1", "", "https://localhost:4000"])
def test_a_host_without_region_is_refused(url):
    with pytest.raises(ValueError, match="no AWS region"):
        signing.aws_scope(url)


def test_a_bedrock_key_goes_as_bearer_and_an_access_key_signs_for_the_urls_region():
    url = "https://bedrock-runtime.eu-west-1.amazonaws.com/model/m/converse"
    call = {"url": url, "headers": {"content-type": "application/json", "accept": "*/*"}, "body": b"{}"}
    assert signing.aws_headers("ABSKabc", **call, now=VECTORS_AT) == {"Authorization": "Bearer ABSKabc"}
    pair = '{"access_key_id": "AKIAEXAMPLE", "secret_access_key": "s"}'
    header = signing.aws_headers(pair, **call, now=VECTORS_AT)["Authorization"]
    assert "Credential=AKIAEXAMPLE/20150830/eu-west-1/bedrock/aws4_request" in header
    assert "SignedHeaders=content-type;host;x-amz-date," in header


# --- Tokens ---------------------------------------------------------------------------------------------------------


@cache
def rsa_key(bits=2048):
    return rsa.generate_private_key(65537, bits)


def pem(key, encryption=None):
    format_ = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, format_, encryption or serialization.NoEncryption()).decode()


def unpacked(segment):
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


@pytest.mark.parametrize("key_id", [None, "key-1"])
def test_a_token_is_signed_so_that_the_public_key_verifies_it(key_id):
    claims = {"iss": "a@b.iam.gserviceaccount.com", "exp": 1_800_000_000}
    head, body, signature = signing.jwt_rs256(claims, pem(rsa_key()), key_id).split(".")
    rsa_key().public_key().verify(unpacked(signature), f"{head}.{body}".encode(), padding.PKCS1v15(), hashes.SHA256())
    assert json.loads(unpacked(body)) == claims
    assert json.loads(unpacked(head)) == {"alg": "RS256", "typ": "JWT"} | ({"kid": key_id} if key_id else {})


def test_a_key_whose_line_ends_were_written_out_is_the_same_key():
    written_out = pem(rsa_key()).replace("\n", "\\n")
    assert signing.jwt_rs256({}, written_out, None) == signing.jwt_rs256({}, pem(rsa_key()), None)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (lambda: "", "not an unencrypted key"),
        (lambda: "-----BEGIN PRIVATE KEY-----\nhush\n-----END PRIVATE KEY-----\n", "not an unencrypted key"),
        (lambda: pem(rsa_key(), serialization.BestAvailableEncryption(b"hush")), "not an unencrypted key"),
        (lambda: pem(ec.generate_private_key(ec.SECP256R1())), "not an RSA key"),
        (lambda: pem(rsa_key(1024)), "shorter than 2048"),
    ],
)
def test_a_bad_key_is_refused_without_a_word_of_it(key, why):
    with pytest.raises(ValueError, match=why) as caught:
        signing.jwt_rs256({}, key(), None)
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None
