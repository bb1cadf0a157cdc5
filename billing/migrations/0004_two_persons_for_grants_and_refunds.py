"""A second operator approves large grants and refunds too; what operators bore is summed up from an index of its own."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0003_entries_by_time'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name='pendingadjustment',
            name='corrects',
            field=models.ForeignKey(blank=True, db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='billing.entry'),
        ),
        migrations.AddField(
            model_name='pendingadjustment',
            name='expires_at',
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name='pendingadjustment',
            name='kind',
            field=models.CharField(choices=[('adjustment', 'Adjustment'), ('grant', 'Grant'), ('refund', 'Refund')], default='adjustment', max_length=10),
        ),
        migrations.AddIndex(
            model_name='entry',
            index=models.Index(condition=models.Q(('kind', 'absorbed')), fields=['created_at'], name='entry_absorbed'),
        ),
        migrations.AddIndex(
            model_name='pendingadjustment',
            index=models.Index(condition=models.Q(('state', 'waiting')), fields=['created_at'], name='adjustment_waiting'),
        ),
        migrations.AddConstraint(
            model_name='pendingadjustment',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('corrects__isnull', False), ('kind', 'refund')), models.Q(models.Q(('kind', 'refund'), _negated=True), ('corrects__isnull', True)), _connector='OR'), name='pending_refund_names_its_entry'),
        ),
    ]
