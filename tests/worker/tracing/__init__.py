SECRET = "canary-of-the-tests-of-traces"
