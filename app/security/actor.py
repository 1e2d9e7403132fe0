"""The actor: the user behind the current request, the only identity that services see."""

from dataclasses import dataclass

from app.domain.users import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """A user who was let through the gate, with the authority read in this very unit."""

    id: str
    subject: str
    role: Role
    scopes: frozenset[str]

    @property
    def sees_all_tasks(self) -> bool:
        """Admins see every task, users their own."""
        return self.role.level >= Role.ADMIN.level
