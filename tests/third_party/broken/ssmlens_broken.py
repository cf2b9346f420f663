"""A score whose package lacks what it imports."""

import a_package_that_is_not_installed  # noqa: F401
