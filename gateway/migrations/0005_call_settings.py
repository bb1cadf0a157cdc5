"""How an organization wants its calls carried out, groups that share calls, weights of keys."""


import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0003_shared_cache'),
        ('gateway', '0004_added_models'),
    ]

    operations = [
        migrations.CreateModel(
            name='CallSettings',
            fields=[
                ('organization', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='+', serialize=False, to='accounts.organization')),
                ('fallback_models', models.JSONField(blank=True, default=list)),
                ('fallback_enabled', models.BooleanField(default=True)),
                ('retry_enabled', models.BooleanField(default=True)),
                ('num_retries', models.PositiveSmallIntegerField(default=2)),
                ('retry_after_ms', models.PositiveIntegerField(default=250)),
                ('strategy', models.CharField(choices=[('weighted', 'Weighted'), ('latency', 'Latency'), ('cost', 'Cost')], default='weighted', max_length=10)),
                ('cache_enabled', models.BooleanField(default=False)),
                ('cache_ttl_s', models.PositiveIntegerField(default=1800)),
                ('cache_by_customer', models.BooleanField(default=False)),
                ('cache_by_model', models.BooleanField(default=False)),
                ('cache_omit_log', models.BooleanField(default=False)),
                ('changed_at', models.DateTimeField(auto_now=True)),
            ],
        ),
        migrations.AddField(
            model_name='credential',
            name='weight',
            field=models.PositiveSmallIntegerField(default=1),
        ),
        migrations.CreateModel(
            name='LoadBalanceGroup',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('group_id', models.CharField(max_length=60)),
                ('name', models.CharField(max_length=60)),
                ('strategy', models.CharField(choices=[('weighted', 'Weighted'), ('latency', 'Latency'), ('cost', 'Cost')], default='weighted', max_length=10)),
                ('members', models.JSONField(default=list)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='accounts.organization')),
            ],
            options={
                'ordering': ['name', 'id'],
                'constraints': [models.UniqueConstraint(fields=('organization', 'group_id'), name='one_group_per_id')],
            },
        ),
    ]
