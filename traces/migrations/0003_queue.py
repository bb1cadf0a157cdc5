"""The PostgreSQL message queue (pgmq), from the SQL that ships in its wheel: Celery's broker when no other is set.

Plain SQL, no extension files, no superuser. Skipped where the schema is there already (installed by an operator, or as
an extension). Never removed on reversal: it may hold messages of others.
"""

from importlib.resources import files

from django.db import migrations


def install(apps, schema_editor):
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('pgmq.meta') IS NOT NULL")
        if cursor.fetchone()[0]:
            return
        # No parameters: psycopg sends the whole script as it is.
        cursor.execute(files("pgmq").joinpath("sql/pgmq.sql").read_text(encoding="utf-8"))


class Migration(migrations.Migration):
    dependencies = [("traces", "0002_store")]

    operations = [migrations.RunPython(install, migrations.RunPython.noop, elidable=False)]
