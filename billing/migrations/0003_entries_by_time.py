"""Where a day begins among a wallet's entries, and its few entries that are no charges: see `billing/spending.py`."""

from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0002_functions'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddIndex(
            model_name='entry',
            index=models.Index(fields=['wallet', 'created_at', 'number'], name='entry_by_time'),
        ),
        migrations.AddIndex(
            model_name='entry',
            index=models.Index(condition=models.Q(('kind__in', ['usage', 'absorbed']), _negated=True), fields=['wallet', '-number'], name='entry_no_charge'),
        ),
    ]
