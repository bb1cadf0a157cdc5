"""The proxy by which the operator's console lists the keys of organizations; no table of its own."""

from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('gateway', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='OrganizationCredential',
            fields=[
            ],
            options={
                'ordering': ['organization', 'provider', 'name', 'id'],
                'proxy': True,
                'indexes': [],
                'constraints': [],
            },
            bases=('gateway.credential',),
        ),
    ]
