"""Reporters for tests: they act at a step, or record what was reported."""


class Listener:
    """Does nothing."""

    def step(self, step, loss, learning_rate, gradient_norm, tokens_per_second, **observed):
        pass

    def evaluated(self, step, nats_per_token):
        pass

    def measured(self, step, readings):
        pass

    def warned(self, message):
        pass


class At(Listener):
    """Calls `action` when a step is done."""

    def __init__(self, when, action):
        self.when, self.action = when, action

    def step(self, step, loss, learning_rate, gradient_norm, tokens_per_second, **observed):
        if step == self.when:
            self.action()


class Memory(Listener):
    """Records warnings, and readings as (step, readings)."""

    def __init__(self):
        self.warnings, self.readings = [], []

    def measured(self, step, readings):
        self.readings.append((step, readings))

    def warned(self, message):
        self.warnings.append(message)
