"""What type checkers read also runs. mypy itself is run by `cargo xtask test`, over the package and the program."""

import typed_program

from tyndall import serve


def test_the_typed_program_does_what_its_types_say():
    handle = serve.run(typed_program.build({"word": "typed"}), _local_testing_mode=True)
    assert list(handle.options(stream=True).lines.remote()) == ["0\n", "1\n", "2\n"]
    squares = serve.run(typed_program.squares.bind(), name="squares", _local_testing_mode=True)
    assert squares.remote(3).result() == 3 * 3 - 3
    squares.resize.remote(1).result()
    models = serve.run(typed_program.models.bind(), name="models", _local_testing_mode=True)
    assert models.options(multiplexed_model_id="abc").remote().result() == 3 + 3
