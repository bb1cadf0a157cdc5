import pytest
from respan import pool
@pytest.mark.django_db(transaction=True)
async def test_pool():
    async with pool.connection() as c:
        print(await (await c.execute("select current_database()")).fetchone())
def test_cast(cast): pass
