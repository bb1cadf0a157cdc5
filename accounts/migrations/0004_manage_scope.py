"""API keys that may change limits: a scope nobody gets unasked."""

import django.contrib.postgres.fields
from django.db import migrations, models

import accounts.models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0003_shared_cache'),
    ]

    operations = [
        migrations.AlterField(
            model_name='apikey',
            name='scopes',
            field=django.contrib.postgres.fields.ArrayField(base_field=models.CharField(choices=[('call', 'Call models'), ('logs', 'Read logs'), ('manage', 'Change limits')], max_length=20), default=accounts.models.all_scopes, size=None),
        ),
    ]
