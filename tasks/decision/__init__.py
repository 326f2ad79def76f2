"""The decision: whom to contact, and with which offer.

Customers of the held-out parts meet a simulated year (`cohort`, `simulator`): each month some leave, a policy makes
offers, some accept, and an accepted offer keeps customers at a price. What a policy may see is what a request tells;
what it may spend is kept by the wallet, whom it may contact by the mask, both the service's own. Every policy is read
against two lines (`bound`): what nobody can pass, and the best that features can tell; and beside baselines that were
given the same chances (`baselines`).
"""
