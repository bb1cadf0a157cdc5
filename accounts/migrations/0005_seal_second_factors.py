"""Seals what second factors were kept plainly; reading both is possible before and after."""

from typing import Any

from django.db import migrations


def seal(apps: Any, schema_editor: Any) -> None:
    from accounts import factor_sealing

    rows = apps.get_model("mfa", "Authenticator").objects
    for row in rows.select_for_update().exclude(type="webauthn").order_by("pk").iterator():
        data = factor_sealing.sealed(row.data, row.user_id)
        if data != row.data:
            rows.filter(pk=row.pk).update(data=data)


class Migration(migrations.Migration):
    dependencies = (("accounts", "0004_manage_scope"), ("mfa", "0003_authenticator_type_uniq"))
    # Back: rows stay sealed; the code before cannot read them.
    operations = (migrations.RunPython(seal, elidable=True),)
