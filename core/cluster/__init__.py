"""Models in replicas elsewhere: the same lease, which is answered from there.

A page server has no weights: `ClusterPool` hands out leases (`lease.py`), what they ask travels as plain data (`wire.py`), and a reply goes on elsewhere when
its replica is lost (`following.py`). A replica is the app's own Pool behind a `Responder`. How both find each other is not known here.
"""
