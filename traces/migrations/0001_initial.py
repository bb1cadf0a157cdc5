import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies: list[tuple[str, str]] = []

    operations = [
        migrations.CreateModel(
            name="IngestBatch",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("blob", models.BinaryField(null=True)),
                ("records", models.IntegerField()),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("attempts", models.SmallIntegerField(default=0)),
                ("claimed_at", models.DateTimeField(null=True)),
                ("nudged_at", models.DateTimeField(null=True)),
                ("done_at", models.DateTimeField(null=True)),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("done_at__isnull", True)), fields=["created_at"], name="batch_waiting"
                    ),
                    models.Index(condition=models.Q(("done_at__isnull", False)), fields=["done_at"], name="batch_done"),
                ],
            },
        ),
        migrations.CreateModel(
            name="DeadLetter",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("batch_id", models.UUIDField()),
                ("raw", models.BinaryField()),
                ("is_blob", models.BooleanField(default=False)),
                ("reason", models.TextField()),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                "indexes": [models.Index(fields=["batch_id"], name="dead_letter_by_batch")],
            },
        ),
    ]
