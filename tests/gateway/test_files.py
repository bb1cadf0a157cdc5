"""/api/files from outside: sent on with the organization's own key, and known to nobody else."""

import pytest
from openai import NotFoundError

from gateway import files
from gateway.credentials import Stored
from gateway.models import UploadedFile
from tests.stack import OWN_KEY, call

LOCAL = {"X-Respan-Provider": "local"}
PDF = ("contract.pdf", b"%PDF-1.7\r\n\x00\xff", "application/pdf")


def request(one, path, *, method="GET", **headers):
    """Make a request with any method; `call` of the stack knows GET and POST."""
    import urllib.request

    from tests.stack import Answer

    made = urllib.request.Request(one.stack.base_url + path, method=method, headers=LOCAL | headers)
    made.add_header("Authorization", f"Bearer {one.key}")
    try:
        with urllib.request.urlopen(made, timeout=30) as answer:
            return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())


def upload(one):
    return one.client.files.create(file=PDF, purpose="user_data", extra_headers=LOCAL)


def test_a_file_makes_its_whole_way_with_the_sdk(tenant):
    one = tenant(local=True)
    file = upload(one)
    assert (file.filename, file.bytes, file.purpose) == ("contract.pdf", len(PDF[1]), "user_data")
    sent = one.stack.provider.last
    assert (sent.path, sent.headers["authorization"]) == ("/v1/files", f"Bearer {OWN_KEY}")

    assert one.client.files.retrieve(file.id, extra_headers=LOCAL).id == file.id
    assert file.id in [each.id for each in one.client.files.list(extra_headers=LOCAL).data]
    assert one.client.files.content(file.id, extra_headers=LOCAL).read() == PDF[1]
    assert one.client.files.delete(file.id, extra_headers=LOCAL).deleted is True
    with pytest.raises(NotFoundError):
        one.client.files.retrieve(file.id, extra_headers=LOCAL)


def test_its_owner_is_remembered_with_name_size_and_purpose(tenant):
    one = tenant(local=True)
    file = upload(one)
    row = UploadedFile.objects.get(organization=one.organization, file_id=file.id)
    assert (row.provider, row.filename, row.bytes, row.purpose) == ("custom", PDF[0], len(PDF[1]), "user_data")
    assert row.deleted_at is None
    # the owner is known: nobody has to name the provider again
    assert one.client.files.retrieve(file.id).id == file.id
    one.client.files.delete(file.id)
    row.refresh_from_db()
    assert row.deleted_at is not None


def test_the_list_asks_the_provider_for_what_was_asked(tenant):
    one = tenant(local=True)
    answer = request(
        one, "/api/files?limit=5&purpose=user_data&order=asc&provider=local&x=1", **{"X-Respan-Provider": ""}
    )
    assert answer.status == 200
    assert one.stack.provider.last.path == "/v1/files?limit=5&order=asc&purpose=user_data"


def test_a_file_of_one_organization_does_not_exist_for_another(tenant):
    one, other = tenant(local=True), tenant()
    file = upload(one)
    for path in (f"/api/files/{file.id}", f"/api/files/{file.id}/content"):
        answer = request(other, path)
        assert (answer.status, answer.error["code"]) == (400, "no_credential")
    assert request(other, f"/api/files/{file.id}", method="DELETE").status == 400
    assert one.client.files.retrieve(file.id).id == file.id
    assert not UploadedFile.objects.filter(organization=other.organization).exists()


def test_a_file_whose_key_was_removed_is_gone(tenant):
    from gateway import credentials
    from gateway.models import Credential
    from tests.servers import wait_until

    one = tenant(local=True)
    file = upload(one)
    Credential.objects.filter(organization=one.organization).delete()
    credentials.forget(one.organization.pk)
    gone = wait_until(lambda: (found := request(one, f"/api/files/{file.id}")).status == 404 and found, timeout_s=8)
    assert (gone.error["code"], "was removed" in gone.error["message"]) == ("file_not_found", True)


def test_a_file_uploaded_elsewhere_is_found_and_remembered(tenant):
    one = tenant(local=True)
    one.stack.provider.files.setdefault(f"Bearer {OWN_KEY}", {})["file-elsewhere"] = ({"id": "file-elsewhere"}, b"x")
    assert request(one, "/api/files/file-elsewhere").json["id"] == "file-elsewhere"
    assert UploadedFile.objects.filter(organization=one.organization, file_id="file-elsewhere").exists()


def test_content_is_never_shown_as_a_page(tenant):
    one = tenant(local=True)
    answer = request(one, f"/api/files/{upload(one).id}/content/")
    assert (answer.body, answer.headers["content-disposition"]) == (PDF[1], "attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_without_an_own_key_there_is_no_place_for_files(tenant):
    one = tenant(credits_usd="1")
    answer = call(f"{one.stack.base_url}/api/files", key=one.key)
    assert (answer.status, answer.error["code"]) == (400, "no_credential")
    assert one.stack.provider.requests == []


def test_only_a_calling_key_reaches_files(stack):
    assert call(f"{stack.base_url}/api/files").status == 401


@pytest.mark.parametrize(
    ("body", "kind", "param"),
    [
        (b"{}", "application/json", None),
        (b"--b--\r\n", "multipart/form-data; boundary=b", "file"),
        (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
            "purpose",
        ),
    ],
)
def test_a_wrong_upload_is_refused_before_the_provider(tenant, body, kind, param):
    one = tenant(local=True)
    answer = one.post(body, path="/api/files", content_type=kind, x_respan_provider="local")
    assert (answer.status, answer.error["param"]) == (400, param)
    assert one.stack.provider.requests == []


@pytest.mark.parametrize("file_id", ["..", "a%2f..%2fmodels", "a%20b", "%00"])
def test_an_id_is_never_a_path_of_its_own(tenant, file_id):
    one = tenant(local=True)
    assert request(one, f"/api/files/{file_id}").status == 404
    assert one.stack.provider.requests == []


def test_a_providers_refusal_comes_through_without_its_key(tenant):
    one = tenant(local=True)
    answer = request(one, "/api/files/file-nowhere")
    assert (answer.status, "No such File object" in answer.error["message"]) == (404, True)
    assert OWN_KEY.encode() not in answer.body


# --- Whose file it is -----------------------------------------------------------------------------------------------


def stored(public_id="cred_a"):
    return Stored(public_id, 1, "custom", "local", None, (), "")


@pytest.mark.django_db(transaction=True)
async def test_owners_are_known_by_organization_and_after_a_restart(organization, other_organization):
    await files.remember(organization.pk, "file-a", stored(), filename="a\0b", size=3, purpose="batch")
    files._owners.clear()
    assert await files.owner_of(organization.pk, ["file-a", "file-b", "bad id", "\0"]) == {"file-a": "cred_a"}
    assert await files.owner_of(other_organization.pk, ["file-a"]) == {}


@pytest.mark.django_db(transaction=True)
async def test_the_key_that_could_read_a_file_is_its_owner_from_then_on(organization):
    await files.remember_found(organization.pk, "file-a", stored("cred_a"))
    await files.remember_found(organization.pk, "file-a", stored("cred_b"))
    files._owners.clear()
    assert await files.owner_of(organization.pk, ["file-a"]) == {"file-a": "cred_b"}


@pytest.mark.django_db(transaction=True)
async def test_what_is_remembered_is_bounded(organization, monkeypatch):
    monkeypatch.setattr(files, "_MAX_REMEMBERED", 2)
    files._owners.clear()
    for number in range(4):
        files._keep(organization.pk, f"file-{number}", "cred_a")
    assert list(files._owners) == [(organization.pk, "file-2"), (organization.pk, "file-3")]
