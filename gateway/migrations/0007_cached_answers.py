"""Answers that are given again: a table without a write-ahead log, which a crash may empty."""


import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0003_shared_cache'),
        ('gateway', '0006_limits'),
    ]

    operations = [
        migrations.CreateModel(
            name='CachedAnswer',
            fields=[
                ('key', models.BinaryField(max_length=32, primary_key=True, serialize=False)),
                ('environment', models.CharField(max_length=20)),
                ('dialect', models.CharField(max_length=20)),
                ('model', models.CharField(max_length=256)),
                ('provider', models.CharField(blank=True, max_length=40)),
                ('response_model', models.CharField(blank=True, max_length=200)),
                ('customer_identifier', models.CharField(max_length=254, null=True)),
                ('request', models.BinaryField(null=True)),
                ('prompt_text', models.TextField(blank=True)),
                ('answer_text', models.TextField(blank=True)),
                ('body', models.BinaryField(null=True)),
                ('content_type', models.CharField(blank=True, max_length=100)),
                ('events', models.BinaryField(null=True)),
                ('events_type', models.CharField(blank=True, max_length=100)),
                ('include_usage', models.BooleanField(default=False)),
                ('size', models.PositiveIntegerField(default=0)),
                ('input_tokens', models.BigIntegerField(default=0)),
                ('output_tokens', models.BigIntegerField(default=0)),
                ('cost_nano', models.BigIntegerField(null=True)),
                ('duration_us', models.BigIntegerField(default=0)),
                ('log_id', models.UUIDField(null=True)),
                ('hit_count', models.BigIntegerField(default=0)),
                ('last_hit_at', models.DateTimeField(null=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('updated_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('expires_at', models.DateTimeField()),
                ('leader', models.UUIDField(null=True)),
                ('organization', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='accounts.organization')),
            ],
            options={
                'ordering': ['-created_at', 'key'],
                'indexes': [models.Index(fields=['organization', 'environment', '-created_at'], name='cached_answers_listed'), models.Index(fields=['expires_at'], name='cached_answers_expiring')],
            },
        ),
        migrations.RunSQL(
            "ALTER TABLE gateway_cachedanswer SET UNLOGGED",
            "ALTER TABLE gateway_cachedanswer SET LOGGED",
        ),
    ]
