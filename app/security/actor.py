"""The actor: the user behind the current request, the only identity that services see."""

from dataclasses import dataclass

from app.domain.audit import Author
from app.domain.scopes import TASKS_READ_PAYLOAD
from app.domain.users import Role, Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """A user who was let through the gate, with the authority read in this very unit."""

    id: str
    subject: str
    role: Role
    scopes: frozenset[str]
    request_id: str | None = None

    @property
    def sees_all_tasks(self) -> bool:
        """Admins see every task, users their own."""
        return self.role.level >= Role.ADMIN.level

    def sees_content(self, created_by: str) -> bool:
        """Payloads, outputs and tracebacks are for whoever created the task, and for holders of a scope of its own."""
        return self.id == created_by or TASKS_READ_PAYLOAD in self.scopes

    @property
    def standing(self) -> Standing:
        """What the rules on who may act on whom know of the actor."""
        return Standing(id=self.id, role=self.role, scopes=self.scopes)

    @property
    def author(self) -> Author:
        """Who it is, as the audit keeps it."""
        return Author(user_id=self.id, subject=self.subject, request_id=self.request_id)
