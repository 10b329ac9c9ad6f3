"""The chart, rendered by the real helm: held against Kubernetes' schemas, against the real binary, and against what the
README promises.

HELM              the helm to render with
SWITCHBOARD_BIN   the binary under test
CRDS              folder with prometheus-operator's *-crd.json
"""

import functools
import json
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CHART = ROOT / "deploy/helm/switchboard"
HELM = os.environ["HELM"]
BINARY = os.environ["SWITCHBOARD_BIN"]
CRDS = Path(os.environ["CRDS"])

# The oldest that Chart.yaml admits, the first with preStop.sleep, and the youngest that there are schemas of.
KUBERNETES = ["1.27.0", "1.30.0", "1.37.0"]
RULES = {"alerts": HERE / "values/rules.yml"}
# What `observe` puts into Prometheus goes through the chart too.
RULES |= {path.stem: path for path in sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))}

WORLDS = {
    "defaults": [],
    "everything": ["-f", HERE / "values/everything.yaml", *(f"--set-file=prometheusRule.files.{name}={path}" for name, path in RULES.items())],
    "alone": ["-f", HERE / "values/alone.yaml"],
}
# What a Secret of the cluster would hold, by its key's file name.
SECRETS = {
    "jwt-secret": "hidden-signing-secret-0123456789abcdef",
    "previous-jwt-secrets": "hidden-old-secret-one-0123456789ab,hidden-old-secret-two-0123456789ab",
    "registry-secrets": "hidden-secret-of-the-fleet-0123456789ab,hidden-secret-of-the-fleet-before-01",
    "jwt-keys": '[{"secret": "hidden-secret-of-a-partner-0123456789ab", "issuer": "https://partner.example.com", "roles": ["user"]}]',
    "api-key": "hidden-api-key-0123456789",
    "api-keys": '[{"name": "backend", "key": "hidden-named-key-0123456789", "scopes": ["send"]}]',
    "backends": '[{"name": "app", "url": "http://app:8000/switchboard", "secret": "whsec_hiddenhiddenhiddenhiddenhiddenhi"}]',
    "redis-url": "redis://switchboard:hidden@redis:6379",
    "redis-urls": "redis://switchboard:hidden@one:26379,redis://switchboard:hidden@two:26379",
    "redis-sentinel-password": "hidden-sentinel-password",
    "session-secrets": "hidden-session-secret",
    "session-redis-url": "redis://switchboard:hidden@sessions:6379",
    "admin-ui-password-hash": "$2b$04$hiddenhiddenhiddenhidehiddenhiddenhiddenhiddenhiddene",
    "emitter-redis-url": "redis://switchboard:hidden@emitters:6379",
    "python-redis-url": "redis://switchboard:hidden@emitters:6379",
    "traces-headers": "x-api-key=hidden-key-of-the-collector",
}
# What deploy/Dockerfile sets.
IMAGE_ENV = {"SWITCHBOARD_LISTEN": "0.0.0.0:3000"}
# Keys that the chart sets itself.
OWN_KEYS = {"listen", "internal_listen", "node_id"}


def helm(*args):
    done = subprocess.run([HELM, *map(str, args)], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@functools.cache
def render(world, kubernetes="1.37.0", *more):
    code, out, err = helm("template", "sb", CHART, "--namespace", "realtime", "--kube-version", kubernetes, *WORLDS[world], *more)
    assert code == 0, f"helm template of {world} for {kubernetes}: {err}"
    return out


def objects(world, kubernetes="1.37.0", *more):
    return [one for one in yaml.safe_load_all(render(world, kubernetes, *more)) if one]


def find(world, kind, name=None, **how):
    hits = [one for one in objects(world, **how) if one["kind"] == kind and name in (None, one["metadata"]["name"])]
    assert len(hits) == 1, f"expected one {kind} {name or ''} in {world}, got {[one['metadata']['name'] for one in hits]}"
    return hits[0]


def pod(world, **how):
    return find(world, "Deployment", **how)["spec"]["template"]


def container(world, **how):
    return pod(world, **how)["spec"]["containers"][0]


def config_map(world):
    return find(world, "ConfigMap")["data"]["config.toml"]


def seconds(text):
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)(ms|s|m|h)", text))


def selects(selector, labels):
    return bool(selector) and selector.items() <= labels.items()


def strict(schema):
    """A CRD's schema as one that refuses unknown fields, which the API server prunes in silence."""
    if isinstance(schema, dict):
        schema = {key: strict(value) for key, value in schema.items()}
        if "properties" in schema and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema["additionalProperties"] = False
        if schema.pop("x-kubernetes-int-or-string", False):
            schema.pop("anyOf", None)
            schema["type"] = ["integer", "string"]
    elif isinstance(schema, list):
        schema = [strict(one) for one in schema]
    return schema


@functools.cache
def custom_schema(kind):
    crd = json.loads((CRDS / f"{kind.lower()}s-crd.json").read_text())
    schema = strict(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def run_binary(world, *command):
    """Runs the binary in what a pod of the chart would have: its variables, its files, under a folder of the test's own."""
    with tempfile.TemporaryDirectory() as root:
        spec, one = pod(world)["spec"], container(world)
        mounts = {mount["name"]: mount["mountPath"] for mount in one["volumeMounts"]}
        at = lambda path: Path(root) / path.lstrip("/")
        at(mounts["config"]).parent.mkdir(parents=True, exist_ok=True)
        at(mounts["config"]).write_text(config_map(world))
        for volume in spec["volumes"]:
            for source in volume.get("projected", {}).get("sources", []):
                for item in source["secret"]["items"]:
                    file = at(mounts[volume["name"]]) / item["path"]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    # kubectl create secret --from-file keeps the newline at the end.
                    file.write_text(SECRETS[item["path"]] + "\n")
        env = dict(IMAGE_ENV)
        for variable in one["env"]:
            value = variable.get("value", "sb-switchboard-5d7c9-abcde")
            env[variable["name"]] = str(at(value)) if value.startswith("/etc/switchboard/") else value
        return subprocess.run([BINARY, *command], env=env, capture_output=True, text=True, timeout=60)


class Schemas(unittest.TestCase):
    def test_lint(self):
        for world, values in WORLDS.items():
            with self.subTest(world):
                code, out, err = helm("lint", "--strict", CHART, "--kube-version", "1.37.0", *values)
                self.assertEqual(code, 0, out + err)

    def test_every_object_is_one_that_kubernetes_takes(self):
        kinds = set()
        for world in WORLDS:
            for kubernetes in KUBERNETES:
                for one in objects(world, kubernetes):
                    kinds.add(one["kind"])
                    with self.subTest(f"{one['kind']} {one['metadata']['name']}, {world}, Kubernetes {kubernetes}"):
                        if one["apiVersion"].startswith("monitoring.coreos.com/"):
                            jsonschema.Draft202012Validator(custom_schema(one["kind"])).validate(one)
                        else:
                            kubernetes_validate.validate(one, kubernetes, strict=True)
        self.assertEqual(kinds, {"ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Ingress", "NetworkPolicy", "Pod",
                                 "PodDisruptionBudget", "PrometheusRule", "Service", "ServiceAccount", "ServiceMonitor"})

    def test_a_kubernetes_that_is_too_old_is_refused(self):
        code, _, err = helm("template", "sb", CHART, "--kube-version", "1.26.0")
        self.assertNotEqual(code, 0)
        self.assertIn("kubeVersion", err)

    def test_names_of_any_length_are_names(self):
        name = "a" * 53
        for one in yaml.safe_load_all(helm("template", name, CHART, "--kube-version", "1.37.0")[1]):
            self.assertLessEqual(len(one["metadata"]["name"]), 63)


class Configuration(unittest.TestCase):
    def test_the_binary_takes_it(self):
        for world in WORLDS:
            with self.subTest(world):
                done = run_binary(world, "check-config")
                self.assertEqual(done.returncode, 0, done.stderr + done.stdout + config_map(world))

    def test_what_is_in_force_is_what_the_values_say(self):
        import tomllib
        for world, (host, http, internal) in {"defaults": ("0.0.0.0", 3000, 3001), "everything": ("[::]", 4000, 4001)}.items():
            with self.subTest(world):
                shown = tomllib.loads(run_binary(world, "print-config").stdout)
                self.assertEqual(shown["listen"], f"{host}:{http}")
                self.assertEqual(shown["internal_listen"], f"{host}:{internal}")
                self.assertEqual(shown["node_id"], "sb-switchboard-5d7c9-abcde")
                self.assertEqual({port["name"]: port["containerPort"] for port in container(world)["ports"]}, {"http": http, "internal": internal})
        self.assertEqual(shown["limits"]["connections_per_user_policy"], "evict_oldest")
        self.assertEqual(shown["limits"]["connections"], 2500000)
        self.assertEqual(shown["namespaces"][2]["path"], '/quo"te\\d')

    def test_the_schema_knows_the_keys_of_the_binary_and_no_secret_one(self):
        page = subprocess.run([BINARY, "config-doc"], capture_output=True, text=True, timeout=60, check=True).stdout
        rows = {row[0]: row for row in re.findall(r"^\| `([a-z_.]+)`([^|]*)\|[^|]*\| ([a-z, ]*) \|", page, re.MULTILINE)}
        # The chart has no schema for the tables of a list, but for the namespaces', which helm checks.
        rows = {key: row for key, row in rows.items() if not any(key.startswith(f"{one}.") for one in rows)}
        secret = {key for key, (_, _, marks) in rows.items() if "secret" in marks}
        self.assertGreater(len(rows), 40)
        definitions = json.loads((CHART / "values.schema.json").read_text())["definitions"]

        def leaves(schema, path=""):
            for name, inner in schema["properties"].items():
                at = f"{path}.{name}".lstrip(".")
                yield from leaves(inner, at) if "properties" in inner else [at]

        known = set(leaves(definitions["config"]))
        wanted = rows.keys() - secret - OWN_KEYS
        self.assertEqual(wanted - known, set(), "keys of the binary that values.schema.json lacks")
        self.assertEqual(known - wanted, set(), "keys in values.schema.json that the binary lacks")
        variables = set(re.findall(r'"(SWITCHBOARD_[A-Z_]+)"', (CHART / "templates/_helpers.tpl").read_text()))
        short = {name: key for key, (_, names, _) in rows.items() for name in re.findall("SWITCHBOARD_[A-Z_]+", names)}
        reached = {short.get(name, name.removeprefix("SWITCHBOARD_").replace("__", ".").lower()) for name in variables}
        self.assertEqual(reached, secret, "secret keys that can be given by reference")

    def test_a_changed_configuration_makes_new_pods(self):
        sums = {pod("defaults", **how)["metadata"]["annotations"]["checksum/config"] for how in
                ({}, {"kubernetes": "1.30.0"})}
        self.assertEqual(len(sums), 1)
        changed = helm("template", "sb", CHART, "--kube-version", "1.37.0", "--set", "config.ping.interval=20s")[1]
        self.assertNotIn(sums.pop(), changed)


class Secrets(unittest.TestCase):
    def test_none_is_rendered(self):
        for world in WORLDS:
            for one in objects(world):
                self.assertNotEqual(one["kind"], "Secret", world)
            for variable in container(world)["env"]:
                if re.search("SECRET|KEY|REDIS", variable["name"]):
                    self.assertTrue(variable["name"].endswith("_FILE"), variable)
                    self.assertTrue(variable["value"].startswith("/etc/switchboard/secrets/"), variable)

    def test_none_is_taken_by_the_values(self):
        for setting in ["config.auth.jwt.secret=hidden", "config.api.key=hidden", "config.redis.urls={redis://:hidden@r}",
                        "config.auth.session.secrets={hidden}", "config.auth.session.redis_url=redis://:hidden@r",
                        "config.auth.jwt.previous_secrets={hidden}", "config.registry.secrets={hidden}", "config.traces.headers={a=hidden}", "config.auth.jwt.keys[0].secret=hidden", "secrets.jwtSecret.value=hidden"]:
            with self.subTest(setting):
                code, out, err = helm("template", "sb", CHART, "--kube-version", "1.37.0", "--set", setting)
                self.assertNotEqual(code, 0, f"{setting} was taken: {out}")
                self.assertNotIn("hidden", out)

    def test_they_come_from_the_secrets_that_are_named(self):
        def sources(world):
            volume = next(one for one in pod(world)["spec"]["volumes"] if one["name"] == "secrets")
            return {item["path"]: (source["secret"]["name"], item["key"])
                    for source in volume["projected"]["sources"] for item in source["secret"]["items"]}

        self.assertEqual(sources("defaults"), {file: ("sb-switchboard", file) for file in ("api-key", "jwt-secret", "redis-url")})
        everything = sources("everything")
        self.assertEqual(everything["jwt-secret"], ("signing", "secret"))
        self.assertEqual(everything["api-key"], ("sockets-secrets", "api-key"))
        self.assertEqual(everything["redis-urls"], ("redis", "urls"))
        self.assertNotIn("redis-url", everything, "redisUrls stand in place of redisUrl: set twice is an error")
        self.assertEqual([one["name"] for one in pod("alone")["spec"]["volumes"]], ["config"])


class Drain(unittest.TestCase):
    def test_the_grace_outlasts_prestop_and_drain(self):
        import tomllib
        for world in WORLDS:
            with self.subTest(world):
                shown = tomllib.loads(run_binary(world, "print-config").stdout)["drain"]
                hook = container(world).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
                needed = hook + seconds(shown["delay"].replace(" ", "")) + seconds(shown["window"].replace(" ", ""))
                grace = pod(world)["spec"]["terminationGracePeriodSeconds"]
                # 5 s for the last closes, 5 s to leave the registry, 2 s for the listeners: src/gateway/drain.rs and
                # src/transport/listener.rs.
                self.assertGreaterEqual(grace, needed + 12)
                self.assertLessEqual(grace, needed + 30, "a pod that hangs is not waited for much longer")

    def test_a_rollout_adds_before_it_takes_away(self):
        spec = find("defaults", "Deployment")["spec"]
        self.assertEqual(spec["strategy"]["rollingUpdate"], {"maxSurge": 1, "maxUnavailable": 0})
        self.assertGreater(spec["minReadySeconds"], 0)

    def test_prestop_is_what_the_version_knows(self):
        self.assertEqual(container("defaults", kubernetes="1.30.0")["lifecycle"]["preStop"], {"sleep": {"seconds": 5}})
        self.assertEqual(container("defaults", kubernetes="1.27.0")["lifecycle"]["preStop"], {"exec": {"command": ["sleep", "5"]}})
        self.assertNotIn("lifecycle", container("alone"))


class Objects(unittest.TestCase):
    def test_what_selects_pods_selects_these(self):
        for world in WORLDS:
            with self.subTest(world):
                labels = pod(world)["metadata"]["labels"]
                self.assertTrue(selects(find(world, "Deployment")["spec"]["selector"]["matchLabels"], labels))
                services = [one for one in objects(world) if one["kind"] == "Service"]
                self.assertEqual(len(services), 2)
                for one in services:
                    self.assertTrue(selects(one["spec"]["selector"], labels), one["metadata"]["name"])
                for one in objects(world):
                    if one["kind"] == "PodDisruptionBudget":
                        self.assertTrue(selects(one["spec"]["selector"]["matchLabels"], labels))
                        self.assertEqual(one["spec"]["unhealthyPodEvictionPolicy"], "AlwaysAllow")
                    if one["kind"] == "NetworkPolicy":
                        self.assertTrue(selects(one["spec"]["podSelector"]["matchLabels"], labels))
                for one in pod(world)["spec"].get("topologySpreadConstraints", []):
                    self.assertTrue(selects(one["labelSelector"]["matchLabels"], labels))
                tests = [one for one in objects(world) if one["kind"] == "Pod"]
                for one in tests:
                    self.assertFalse(selects(services[0]["spec"]["selector"], one["metadata"]["labels"]), "the test pod is behind no Service")
        find("defaults", "PodDisruptionBudget")

    def test_the_autoscaler_counts_connections_of_this_deployment(self):
        spec = find("everything", "HorizontalPodAutoscaler")["spec"]
        deployment = find("everything", "Deployment")
        self.assertEqual(spec["scaleTargetRef"], {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment["metadata"]["name"]})
        self.assertNotIn("replicas", deployment["spec"], "a rollout would undo what the autoscaler did")
        metric = spec["metrics"][0]
        self.assertEqual((metric["type"], metric["pods"]["metric"]["name"]), ("Pods", "switchboard_connections"))
        self.assertEqual(metric["pods"]["target"]["averageValue"], "2500000")
        down = spec["behavior"]["scaleDown"]
        self.assertGreaterEqual(down["stabilizationWindowSeconds"], 600)
        # Not before the one that goes has gone.
        self.assertGreaterEqual(down["policies"][0]["periodSeconds"], pod("everything")["spec"]["terminationGracePeriodSeconds"])
        self.assertIn("switchboard_connections", (ROOT / "src/metrics/table.rs").read_text())

    def test_who_reaches_a_node_is_restricted_unless_that_is_switched_off(self):
        to = {rule["ports"][0]["port"]: rule.get("from") for rule in find("defaults", "NetworkPolicy")["spec"]["ingress"]}
        self.assertEqual(to, {"http": None, "internal": [{"podSelector": {}}]})

    def test_an_image_is_pinned_by_its_digest(self):
        digest = "sha256:" + "a" * 64
        code, text, err = helm("template", "sb", CHART, "--kube-version", "1.30.0", "--set", f"image.digest={digest}")
        self.assertEqual(code, 0, err)
        self.assertIn(f'image: "switchboard@{digest}"', text)

    def test_the_internal_port_is_not_public(self):
        for world in WORLDS:
            public, internal = (find(world, "Service", name) for name in
                                (find(world, "Deployment")["metadata"]["name"] + suffix for suffix in ("", "-internal")))
            self.assertEqual([port["targetPort"] for port in public["spec"]["ports"]], ["http"])
            self.assertEqual([port["targetPort"] for port in internal["spec"]["ports"]], ["internal"])
            self.assertEqual(internal["spec"]["type"], "ClusterIP")
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                self.assertEqual(container(world)[probe]["httpGet"]["port"], "internal")
            for one in objects(world):
                if one["kind"] == "Ingress":
                    for rule in one["spec"]["rules"]:
                        for path in rule["http"]["paths"]:
                            self.assertEqual(path["backend"]["service"], {"name": public["metadata"]["name"], "port": {"name": "http"}})
        self.assertEqual(container("defaults")["readinessProbe"]["httpGet"]["path"], "/readyz")
        self.assertEqual(container("defaults")["livenessProbe"]["httpGet"]["path"], "/healthz")

    def test_the_monitor_finds_the_internal_service_and_names_the_job(self):
        monitor = find("everything", "ServiceMonitor")["spec"]
        hits = [one for one in objects("everything") if one["kind"] == "Service" and selects(monitor["selector"]["matchLabels"], one["metadata"]["labels"])]
        self.assertEqual([one["metadata"]["name"] for one in hits], ["sockets-internal"])
        self.assertEqual(monitor["endpoints"][0]["port"], hits[0]["spec"]["ports"][0]["name"])
        self.assertEqual(hits[0]["metadata"]["labels"][monitor["jobLabel"]], "switchboard")

    def test_rules_come_through_as_they_are(self):
        groups = find("everything", "PrometheusRule")["spec"]["groups"]
        wanted = [group for name in sorted(RULES) for group in yaml.safe_load(RULES[name].read_text())["groups"]]
        self.assertEqual(groups, wanted)

    def test_the_ingress_sticks_by_a_cookie(self):
        ingress = find("everything", "Ingress")
        notes = ingress["metadata"]["annotations"]
        self.assertEqual(notes["nginx.ingress.kubernetes.io/affinity"], "cookie")
        self.assertEqual(notes["nginx.ingress.kubernetes.io/affinity-mode"], "persistent")
        self.assertNotIn("nginx.ingress.kubernetes.io/proxy-buffering", notes, "null takes one out")
        self.assertNotIn("annotations", find("alone", "Ingress")["metadata"])

    def test_the_pod_can_do_little(self):
        for world in WORLDS:
            spec, one = pod(world)["spec"], container(world)
            self.assertFalse(spec["automountServiceAccountToken"])
            self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertTrue(spec["securityContext"]["runAsNonRoot"])
            self.assertEqual(one["securityContext"], {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}})
            self.assertIn("memory", one["resources"]["limits"])
            name = next(v for v in one["env"] if v["name"] == "SWITCHBOARD_NODE_ID")
            self.assertEqual(name["valueFrom"]["fieldRef"]["fieldPath"], "metadata.name")


class Refusals(unittest.TestCase):
    def test_wrong_values(self):
        for setting in [
            "replicas=3", "replicaCount=-1", "image.repo=x", "config.limts.connections=5", "config.limits.connection=5",
            "config.drain.window=30", "config.drain.window=30 seconds", "config.log.format=xml", "config.node_id=a", "config.listen=a",
            "config.auth.jwt.algorithms={none}", "config.trusted_proxies={10.0.0.1}", "drain.graceSeconds=5", "service.type=External",
            "service.port=70000", "containerPorts.http=0", "podDisruptionBudget.maxUnavailable=0", "ingress.hosts[0].path=/x",
            "autoscaling.targetConnections=5", "serviceMonitor.interval=15", "secrets.jwtSecret.existingSecret=x", "readinessProbe.period=5",
            "extraEnv[0].nme=x", "listenAddress=127.0.0.1",
        ]:
            with self.subTest(setting):
                code, out, _ = helm("template", "sb", CHART, "--kube-version", "1.37.0", "--set", setting)
                self.assertNotEqual(code, 0, f"{setting} was taken")

    def test_what_does_not_go_together(self):
        for settings, says in [
            (["secrets.redisUrl.key="], "Without Redis"),
            (["secrets.redisUrl.key=", "replicaCount=1", "autoscaling.enabled=true"], "Without Redis"),
            (["autoscaling.enabled=true", "autoscaling.connectionsPerNode=0"], "connectionsPerNode or cpu"),
            (["prometheusRule.enabled=true"], "needs rules"),
            (["prometheusRule.enabled=true", "prometheusRule.files.a=rules: []"], "holds no groups"),
        ]:
            with self.subTest(settings):
                code, _, err = helm("template", "sb", CHART, "--kube-version", "1.37.0", *(f"--set={one}" for one in settings))
                self.assertNotEqual(code, 0)
                self.assertIn(says, err)


if __name__ == "__main__":
    unittest.main(verbosity=2)
