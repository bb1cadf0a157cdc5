"""What the operator's console calls the batches; no change of the table."""

from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('traces', '0004_usage_by_day_and_part'),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='ingestbatch',
            options={'verbose_name': 'batch', 'verbose_name_plural': 'batches'},
        ),
    ]
