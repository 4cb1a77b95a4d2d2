"""Names of pods, by the names of the kubelet's folders and links alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.clock import SECOND_NS
from collectors.host.cgroups import Place
from collectors.host.pods import Pods

UID = "01234567-89ab-cdef-0123-456789abcdef"
ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("name", "place", "pod"),
    [
        (f"pods/shop_db-0_{UID}", Place("/x", None, ID, UID, UID), "shop/db-0"),
        (f"pods/kube-system_kube-proxy-x1_{UID.replace('-', '')}", Place("/x", None, None, "u", UID.replace("-", "")), "kube-system/kube-proxy-x1"),
        (f"containers/db-0_shop_postgres-{ID}.log", Place("/x", None, ID), "shop/db-0"),
        (f"containers/db-0_shop_postgres-{ID}.log", Place("/x", None, "f" * 64), None),
        (f"pods/shop_db-0_{UID}", Place("/x"), None),
        ("pods/lost+found", Place("/x", None, None, UID, UID), UID),
    ],
)  # fmt: skip
def test_pods_are_named_by_the_kubelet_s_files(
    tmp_path: Path, name: str, place: Place, pod: str | None
) -> None:
    """A folder per pod tells uid, namespace and name; a link per container its id; what is neither tells nothing."""
    (tmp_path / name).mkdir(parents=True)
    told = Pods(tmp_path).named(place, 0)
    assert told == Place(place.cgroup, place.unit, place.container, pod, place.pod_uid)


def test_a_new_pod_is_found_and_an_old_one_remembered(tmp_path: Path) -> None:
    """An unknown pod makes the folder be read again, at most every 5 s; one that is gone keeps its name."""
    (tmp_path / "pods").mkdir()
    place = Place("/x", None, None, UID, UID)
    pods = Pods(tmp_path)
    assert pods.named(place, 0).pod == UID
    folder = tmp_path / "pods" / f"shop_db-0_{UID}"
    folder.mkdir()
    assert [pods.named(place, at * SECOND_NS).pod for at in (4, 5)] == [UID, "shop/db-0"]
    folder.rmdir()
    assert pods.named(Place("/y", None, ID), 20 * SECOND_NS).pod is None
    assert pods.named(place, 20 * SECOND_NS).pod == "shop/db-0"


def test_without_a_kubelet_nothing_is_said(tmp_path: Path) -> None:
    """No folder: the uid stays."""
    place = Place("/x", None, ID, UID, UID)
    assert Pods(tmp_path / "none").named(place, 0) == place
