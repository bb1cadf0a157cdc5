"""Limits of organizations, and their counters in an unlogged table."""

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

import respan.ids


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0003_shared_cache'),
        ('gateway', '0005_call_settings'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='LimitPolicy',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('public_id', models.CharField(default=respan.ids.maker('limit'), editable=False, max_length=40, unique=True)),
                ('name', models.CharField(max_length=120)),
                ('label', models.CharField(blank=True, max_length=120)),
                ('compose', models.JSONField(default=list)),
                ('scope_values', models.JSONField(default=dict)),
                ('metric', models.CharField(choices=[('request_count', 'Requests'), ('token_count', 'Tokens'), ('cost', 'Cost'), ('concurrency', 'Calls at once')], max_length=20)),
                ('period', models.CharField(blank=True, max_length=12)),
                ('anchor', models.CharField(choices=[('calendar', 'Calendar'), ('first_event', 'First Event'), ('explicit_ts', 'Explicit')], default='calendar', max_length=12)),
                ('anchor_at', models.DateTimeField(null=True)),
                ('effective_at', models.DateTimeField(null=True)),
                ('expires_at', models.DateTimeField(null=True)),
                ('priority', models.IntegerField(default=0)),
                ('is_active', models.BooleanField(default=True)),
                ('rules', models.JSONField(default=list)),
                ('revision', models.PositiveIntegerField(default=1)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('changed_at', models.DateTimeField(auto_now=True)),
                ('created_by', models.ForeignKey(editable=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('organization', models.ForeignKey(editable=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='accounts.organization')),
            ],
            options={
                'ordering': ['-priority', 'id'],
                'indexes': [models.Index(fields=['organization', '-priority', 'id'], name='limits_of_an_organization')],
            },
        ),
        migrations.CreateModel(
            name='LimitCounter',
            fields=[
                ('pk', models.CompositePrimaryKey('organization_id', 'policy_id', 'revision', 'subject', blank=True, editable=False, primary_key=True, serialize=False)),
                ('organization_id', models.BigIntegerField()),
                ('policy_id', models.BigIntegerField()),
                ('revision', models.PositiveIntegerField()),
                ('subject', models.TextField()),
                ('starts_ms', models.BigIntegerField()),
                ('ends_ms', models.BigIntegerField()),
                ('used', models.BigIntegerField(default=0)),
                ('granted', models.BigIntegerField(default=0)),
                ('most', models.BigIntegerField(default=0)),
                ('holders', models.JSONField(default=dict)),
            ],
            options={
                'indexes': [models.Index(fields=['ends_ms'], name='limit_counters_ended')],
            },
        ),
        # Counted for every call and worth nothing after a crash: no write-ahead log, and updates that stay on their page.
        migrations.RunSQL(
            "ALTER TABLE gateway_limitcounter SET UNLOGGED; ALTER TABLE gateway_limitcounter SET (fillfactor = 50)",
            migrations.RunSQL.noop,
        ),
    ]
