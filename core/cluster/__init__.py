"""Models in replicas elsewhere, on Ray Serve: the same lease, which is answered from there.

Only `connection.py`, `app.py`, `replica.py` and `router.py` know Ray; the rest is tried without it. A page server has no weights: `ClusterPool` hands out
leases (`lease.py`), what they ask travels as plain data (`wire.py`), and a reply goes on elsewhere when its replica is lost (`following.py`). A
replica is the app's own Pool behind a `Responder`.
"""
