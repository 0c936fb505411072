from tests.image_files import place  # noqa: F401  # a fixture
