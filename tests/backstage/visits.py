"""What people and programs ask of a Backstage in a day: every API of the installed plugins that reads or writes a database.

Each visit is (method, path, body, who).  What it is answered does not matter here as long as it is no server's fault: the point is
the statements behind it."""

from __future__ import annotations

from typing import Any

from tests.backstage.backend import Backstage

GUEST = "user:development/guest"
COMPONENT = {"apiVersion": "backstage.io/v1alpha1", "kind": "Component", "metadata": {"name": "by-hand"},
             "spec": {"type": "service", "lifecycle": "production", "owner": GUEST}}
_BY_QUERY = (
    "", "?limit=1", "?limit=0", "?offset=1&limit=1", "?filter=kind=component", "?filter=kind=component,spec.type=service",
    "?filter=kind=component&filter=kind=template", "?filter=metadata.annotations.backstage.io/managed-by-location",
    "?orderField=metadata.name,desc", "?orderField=spec.type,asc&orderField=metadata.name,desc&limit=1",
    "?fullTextFilterTerm=exch", "?fullTextFilterTerm=exch&fullTextFilterFields=metadata.name&limit=2&orderField=metadata.name,asc",
    "?fields=metadata.name,kind", "?filter=relations.ownedBy=user:development/guest")
_ENTITIES = ("", "?limit=1", "?offset=1&limit=1", "?filter=kind=component", "?filter=metadata.name=ring,kind=template",
             "?order=asc:metadata.name", "?order=desc:kind&limit=2", "?fields=metadata", "?filter=spec.owner")
_NOTIFICATIONS = (
    "", "?read=false", "?read=true", "?saved=true", "?search=start", "?createdAfter=2020-01-01T00:00:00.000Z",
    "?minimumSeverity=normal", "?orderField=created,asc", "?orderField=title,desc&limit=1&offset=1", "?topic=bells")


def catalog(first: str) -> list[tuple[str, str, Any, str]]:
    """`first`: the uid of an entity."""
    one = "/api/catalog/entities/by-name/component/default/telephone-exchange"
    facets = "/api/catalog/entity-facets?facet=kind&facet=spec.type"
    queries = [
        {"filter": {"kind": "component"}}, {"query": {"kind": "component"}},
        {"query": {"$all": [{"kind": {"$in": ["component", "template"]}}, {"spec.type": {"$exists": True}}]}},
        {"query": {"$not": {"kind": "component"}}}, {"query": {"$any": [{"kind": "api"}, {"metadata.name": "ring"}]}}]
    return [
        *(("GET", f"/api/catalog/entities/by-query{query}", None, "service") for query in _BY_QUERY),
        *(("GET", f"/api/catalog/entities{query}", None, "service") for query in _ENTITIES),
        *(("POST", "/api/catalog/entities/by-query", body, "service") for body in queries),
        ("GET", f"/api/catalog/entities/by-uid/{first}", None, "service"), ("GET", one, None, "service"),
        ("GET", f"{one}/ancestry", None, "service"),
        ("POST", "/api/catalog/entities/by-refs", {"entityRefs": ["component:default/telephone-exchange", "api:default/none"]},
         "service"),
        ("POST", "/api/catalog/entities/by-refs", {"entityRefs": ["template:default/ring"], "fields": ["metadata"]}, "service"),
        ("GET", facets, None, "service"), ("GET", f"{facets}&filter=kind=component", None, "service"),
        ("POST", "/api/catalog/entity-facets", {"facets": ["kind"], "query": {"kind": "component"}}, "service"),
        ("POST", "/api/catalog/refresh", {"entityRef": "component:default/telephone-exchange"}, "service"),
        ("GET", "/api/catalog/locations", None, "service"),
        ("POST", "/api/catalog/locations/by-query", {"limit": 2}, "service"),
        ("POST", "/api/catalog/locations/by-query", {"query": {"type": "file"}}, "service"),
        ("GET", "/api/catalog/locations/by-entity/component/default/telephone-exchange", None, "service"),
        ("POST", "/api/catalog/locations?dryRun=true", {"type": "url", "target": "http://127.0.0.1:9/all.yaml"}, "service"),
        ("POST", "/api/catalog/locations", {"type": "url", "target": "http://127.0.0.1:9/all.yaml"}, "service"),
        ("POST", "/api/catalog/validate-entity", {"entity": COMPONENT, "location": "url:http://127.0.0.1:9/x"}, "service"),
    ]


def others() -> list[tuple[str, str, Any, str]]:
    to, mine = {"type": "entity", "entityRef": GUEST}, "/api/user-settings/buckets/tests/keys"
    bus = "/api/events/bus/v1"
    return [
        ("GET", "/api/auth/.well-known/jwks.json", None, "service"), ("GET", "/api/auth/v1/userinfo", None, "user"),
        ("GET", "/api/scaffolder/v2/actions", None, "user"),
        *(("GET", f"/api/scaffolder/v2/tasks{query}", None, "user") for query in (
            "", "?limit=1&offset=1", "?status=completed", f"?createdBy={GUEST}", "?order=desc:created_at",
            f"?createdBy={GUEST}&status=failed&status=completed&order=asc:last_heartbeat_at&limit=5")),
        ("GET", "/api/search/query?term=", None, "service"),
        ("GET", "/api/search/query?term=bell%20ring", None, "service"),
        ("GET", "/api/search/query?term=hand&types[0]=software-catalog&filters[kind]=Component", None, "service"),
        ("GET", "/api/search/query?term=hand&filters[kind][0]=Component&filters[kind][1]=Template&pageLimit=1", None, "service"),
        ("POST", "/api/notifications/", {"recipients": to, "payload": {
            "title": "scoped", "scope": "s1", "severity": "high", "topic": "bells", "link": "/bells", "description": "Ring's 100%"}},
         "service"),
        ("POST", "/api/notifications/", {"recipients": to, "payload": {"title": "again", "scope": "s1", "topic": "bells"}}, "service"),
        ("POST", "/api/notifications/", {"recipients": {"type": "broadcast"}, "payload": {"title": "to all", "scope": "s2"}},
         "service"),
        ("POST", "/api/notifications/", {"recipients": {"type": "broadcast"}, "payload": {"title": "to all again", "scope": "s2"}},
         "service"),
        *(("GET", f"/api/notifications/notifications{query}", None, "user") for query in _NOTIFICATIONS),
        ("GET", "/api/notifications/status", None, "user"), ("GET", "/api/notifications/topics", None, "user"),
        ("GET", "/api/notifications/settings", None, "user"),
        ("POST", "/api/notifications/settings", {"channels": [{"id": "Web", "enabled": True, "origins": [
            {"id": "plugin:tests", "enabled": False, "topics": [{"id": "bells", "enabled": False}]}]}]}, "user"),
        ("GET", "/api/notifications/settings", None, "user"),
        ("PUT", f"{mine}/theme", {"value": "dark"}, "user"), ("PUT", f"{mine}/theme", {"value": {"of": ["bells", 1, None]}}, "user"),
        ("PUT", f"{mine}/gone", {"value": 1}, "user"), ("DELETE", f"{mine}/gone", None, "user"),
        ("POST", "/api/user-settings/multiget", {"items": [{"bucket": "tests", "key": "theme"}, {"bucket": "no", "key": "no"}]},
         "user"),
        ("PUT", f"{bus}/subscriptions/visitor", {"topics": ["bell", "whistle"]}, "service"),
        *(("POST", f"{bus}/events", {"event": {"topic": topic, "payload": {"n": 1}}, "notifiedSubscribers": heard}, "service")
          for topic, heard in (("bell", []), ("bell", ["visitor"]), ("whistle", ["start-1"]), ("unheard", []))),
        ("GET", f"{bus}/subscriptions/visitor/events", None, "service"),
    ]


def visit(backend: Backstage, user: str) -> list[str]:
    """All of them; what a server's fault came of, or an answer that a visit cannot do without."""
    faults = []

    def ask(method: str, path: str, body: Any = None, who: str = "service") -> Any:
        status, answer = backend.request(method, path, body, user if who == "user" else None)
        if not 200 <= status < 500:
            faults.append(f"{method} {path}: {status} {str(answer)[:200]}")
        return answer

    found = ask("GET", "/api/catalog/entities?filter=kind=component")
    for one in (*catalog(found[0]["metadata"]["uid"]), *others()):
        ask(*one)
    page = ask("GET", "/api/catalog/entities/by-query?limit=1&orderField=metadata.name,asc")
    then = ask("GET", f"/api/catalog/entities/by-query?limit=1&cursor={page['pageInfo']['nextCursor']}")
    ask("GET", f"/api/catalog/entities/by-query?limit=1&cursor={then['pageInfo']['prevCursor']}")
    for place in ask("GET", "/api/catalog/locations"):
        ask("GET", f"/api/catalog/locations/{place['data']['id']}")
        ask("DELETE", f"/api/catalog/locations/{place['data']['id']}")
    for task in ask("GET", "/api/scaffolder/v2/tasks", None, "user")["tasks"][:1]:
        for rest in ("", "/events", "/events?after=1"):
            ask("GET", f"/api/scaffolder/v2/tasks/{task['id']}{rest}", None, "user")
        ask("POST", f"/api/scaffolder/v2/tasks/{task['id']}/cancel", {}, "user")
        ask("POST", f"/api/scaffolder/v2/tasks/{task['id']}/retry", {"secrets": {}}, "user")
    told = [row["id"] for row in ask("GET", "/api/notifications/notifications", None, "user")["notifications"]]
    ask("GET", f"/api/notifications/notifications/{told[0]}", None, "user")
    for change in ({"saved": True}, {"saved": False}, {"read": True}, {"read": False}, {"read": True, "saved": True}):
        ask("POST", "/api/notifications/notifications/update", {"ids": told[:2], **change}, "user")
    ask("GET", "/api/notifications/notifications?read=true&saved=true", None, "user")
    ask("GET", "/api/notifications/status", None, "user")
    return faults
