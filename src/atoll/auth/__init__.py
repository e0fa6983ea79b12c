"""The auth service: turns credentials into short-lived tokens, and tells everybody the keys to verify them with.

The rule: it is written with `atoll.service` like any other service, and nothing else in atoll knows its tables. Whoever wants
to know whether a token is good needs a key set and no call to auth. This folder is the service's ATOLL_FOLDER.

Read `operations` first. `grants` are OAuth's three (RFC 6749), `oauth` its wire format, `accounts` users and clients, `signing`
the keys and why one signs only after it was published, `sessions` how one ends before its tokens do, `revocations` how all the
others hear of that, `administration` what an operator may do, `passwords` the hashing, `configuration` what may be set.
"""
