"""Models that the operator adds to the catalogue while everything runs."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('gateway', '0003_uploaded_files'),
    ]

    operations = [
        migrations.CreateModel(
            name='AddedModel',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('provider', models.CharField(max_length=40)),
                ('model_id', models.CharField(help_text='What is asked for: my-model or provider/my-model.', max_length=200, verbose_name='model')),
                ('upstream', models.CharField(blank=True, help_text='Empty: the same as the model.', max_length=200, verbose_name='name at the provider')),
                ('name', models.CharField(blank=True, max_length=200, verbose_name='display name')),
                ('aliases', models.JSONField(blank=True, default=list)),
                ('kind', models.CharField(default='chat', max_length=20)),
                ('context_tokens', models.PositiveIntegerField(blank=True, null=True)),
                ('max_output_tokens', models.PositiveIntegerField(blank=True, null=True)),
                ('capabilities', models.JSONField(blank=True, default=list)),
                ('thinking', models.CharField(default='none', max_length=20)),
                ('efforts', models.JSONField(blank=True, default=list)),
                ('unsupported', models.JSONField(blank=True, default=list)),
                ('image_tokens', models.PositiveIntegerField(blank=True, null=True)),
                ('input_usd', models.DecimalField(blank=True, decimal_places=9, max_digits=15, null=True, verbose_name='input')),
                ('output_usd', models.DecimalField(blank=True, decimal_places=9, max_digits=15, null=True, verbose_name='output')),
                ('cache_read_usd', models.DecimalField(blank=True, decimal_places=9, max_digits=15, null=True, verbose_name='cache read')),
                ('cache_write_usd', models.DecimalField(blank=True, decimal_places=9, max_digits=15, null=True, verbose_name='cache write')),
                ('cache_write_1h_usd', models.DecimalField(blank=True, decimal_places=9, max_digits=15, null=True, verbose_name='cache write, one hour')),
                ('retires_on', models.DateField(blank=True, null=True)),
                ('changed_at', models.DateTimeField(auto_now=True)),
            ],
            options={
                'ordering': ['provider', 'model_id'],
                'constraints': [models.UniqueConstraint(fields=('provider', 'model_id'), name='one_added_model_per_id')],
            },
        ),
    ]
