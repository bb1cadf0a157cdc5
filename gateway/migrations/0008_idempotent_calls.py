"""Calls that must not be made twice, and their answers."""

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0003_shared_cache'),
        ('gateway', '0007_cached_answers'),
    ]

    operations = [
        migrations.CreateModel(
            name='IdempotentCall',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('scope', models.BinaryField()),
                ('fingerprint', models.BinaryField()),
                ('claim', models.UUIDField()),
                ('is_done', models.BooleanField(default=False)),
                ('retry_count', models.PositiveSmallIntegerField(default=0)),
                ('status', models.PositiveSmallIntegerField(null=True)),
                ('content_type', models.CharField(blank=True, max_length=200)),
                ('headers', models.JSONField(default=dict)),
                ('is_stream', models.BooleanField(default=False)),
                ('withheld', models.CharField(blank=True, max_length=10)),
                ('body', models.BinaryField(null=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('deadline_at', models.DateTimeField()),
                ('expires_at', models.DateTimeField(db_index=True)),
                ('api_key', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='accounts.apikey')),
                ('organization', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='accounts.organization')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('organization', 'api_key', 'scope'), name='one_execution_per_scope')],
            },
        ),
    ]
