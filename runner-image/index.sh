#!/bin/sh
# The runner accepts hooks only as .js, .sh or .ps1. By exec its signals reach the binary; by the full path no job chooses it.
exec /home/runner/arc-hook/arc-hook
