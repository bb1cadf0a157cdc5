"""The form of a limit: what people choose among, and how it reads as a limit and back.

Checks shapes only; what may be set is decided by `limit_changes.py`. A form says how much is allowed, a rule says which
value of the counter blocks: for calls that is one more. Neighbours: `limit_views.py`, `limits.py`.
"""

import uuid
from collections.abc import Sequence
from typing import Any, Final

from django import forms

from accounts.models import ApiKey, Organization
from gateway import limits, windows
from gateway.limit_changes import ENDPOINTS, MAX_IDENTIFIER, MAX_NAME, Draft, Rule
from gateway.models import LimitPolicy

_SHOWN_KEYS: Final = 500
_WHOM: Final = (
    ("organization_id", "The whole organization"),
    ("api_key_id", "An API key"),
    ("customer_identifier", "A customer"),
    ("model", "A model"),
    ("endpoint", "An endpoint"),
)
_PERIODS: Final = (*((period, f"a {period}") for period in windows.PERIODS), ("", "in all"))
_PLAIN: Final = {"autocomplete": "off", "spellcheck": "false"}
# Metrics whose counter counts the call that asks.
_COUNTS_CALLS: Final = (limits.REQUESTS, limits.CONCURRENCY)


class LimitForm(forms.Form):
    """A limit with at most one rule of each severity."""

    name = forms.CharField(
        max_length=MAX_NAME,
        widget=forms.TextInput(attrs={**_PLAIN, "autofocus": True, "dir": "auto"}),
        help_text="A refused call is told it.",
    )
    metric = forms.ChoiceField(label="What is counted", choices=LimitPolicy.Metric.choices)
    period = forms.ChoiceField(
        label="In what time", choices=_PERIODS, required=False, help_text="Calls at once have no time."
    )
    most = forms.CharField(
        label="Allowed at most",
        required=False,
        max_length=20,
        widget=forms.TextInput(attrs={**_PLAIN, "inputmode": "decimal"}),
        help_text="More is refused with 429. Cost in USD, anything else a whole number. Empty: nothing is refused.",
    )
    warn = forms.CharField(
        label="Warn from",
        required=False,
        max_length=20,
        widget=forms.TextInput(attrs={**_PLAIN, "inputmode": "decimal"}),
        help_text="Calls from here on carry a warning on their log. Empty: none.",
    )
    whom = forms.ChoiceField(label="For", choices=_WHOM)
    key = forms.ChoiceField(label="API key", required=False, help_text="Only for a limit of API keys.")
    value = forms.CharField(
        label="Which one",
        required=False,
        max_length=MAX_IDENTIFIER,
        widget=forms.TextInput(attrs={**_PLAIN, "dir": "auto"}),
        help_text="The customer's identifier, the model or the endpoint. Empty: each of them is counted by itself.",
    )
    submission = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)

    def __init__(self, *args: Any, organization: Organization, row: LimitPolicy | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.row = row
        keys = ApiKey.objects.filter(organization=organization, revoked_at=None).order_by("-created_at")[:_SHOWN_KEYS]
        key, period, endpoint = self.fields["key"], self.fields["period"], self.fields["value"]
        assert isinstance(key, forms.ChoiceField) and isinstance(period, forms.ChoiceField)  # noqa: S101, PT018
        key.choices = [
            ("", "Each key by itself"),
            *((each.public_id, f"{each.name} (…{each.last_four})") for each in keys),
        ]
        chosen = str(self.initial.get("key") or "")
        if chosen and chosen not in dict(key.choices):
            key.choices = [*key.choices, (chosen, "A key that was revoked")]
        if row is not None and row.period and row.period not in windows.PERIODS:
            period.choices = [(row.period, f"in {row.period} s"), *_PERIODS]
        endpoint.widget.attrs["list"] = "limit-endpoints"

    @property
    def endpoints(self) -> Sequence[str]:
        """Return what an endpoint may be, for suggestions."""
        return ENDPOINTS

    def draft(self, base: Draft | None = None) -> Draft:
        """Return the limit that was entered; what the form does not ask stays as in `base`."""
        data = self.cleaned_data
        metric = data["metric"]
        rules = [
            Rule(severity=severity, value=_counted(metric, data[name], severity))
            for severity, name in ((limits.HARD, "most"), (limits.SOFT, "warn"))
            if data[name].strip()
        ]
        whom = data["whom"]
        value = data["key"] if whom == "api_key_id" else data["value"].strip() if whom != "organization_id" else ""
        members: dict[str, Any] = {}
        if base is not None:
            members = {name: getattr(base, name) for name in Draft.__dataclass_fields__}
        members |= {
            "name": data["name"],
            "metric": metric,
            "period": "" if metric == limits.CONCURRENCY else data["period"],
            "compose": [whom],
            "values": {whom: value} if value else {},
            "rules": rules,
        }
        return Draft(**members)


def _counted(metric: str, text: str, severity: str) -> Any:
    """Return the value of the counter that a rule is about; what is no number is left for the check to refuse."""
    text = text.strip().replace(",", "")
    if metric == limits.COST:
        return text
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        return text
    return int(text) + (severity == limits.HARD and metric in _COUNTS_CALLS)


def is_simple(row: LimitPolicy) -> bool:
    """Tell whether the form can show all of a limit; the others are changed through the API they were made with."""
    severities = [rule["severity"] for rule in row.rules]
    is_plain = not any(rule["description"] for rule in row.rules) and row.anchor != "explicit_ts"
    return len(row.compose) == 1 and len(set(severities)) == len(severities) and is_plain


def initial(draft: Draft) -> dict[str, Any]:
    """Return a limit as the form shows it."""
    amounts = {rule.severity: rule.value for rule in draft.rules}
    most = amounts.get(limits.HARD)
    if isinstance(most, int) and draft.metric in _COUNTS_CALLS:
        most -= 1
    [whom] = draft.compose
    value = draft.values.get(whom, "")
    return {
        "name": draft.name,
        "metric": draft.metric,
        "period": draft.period,
        "most": "" if most is None else str(most),
        "warn": str(amounts.get(limits.SOFT, "")),
        "whom": whom,
        "key": value if whom == "api_key_id" else "",
        "value": value if whom not in ("api_key_id", "organization_id") else "",
    }
