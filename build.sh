#!/usr/bin/env bash
# bash build.sh demo|test|build|bench|golden|faults|pack|gpu-check|clean
# Finds a PowerShell 7.6 and hands over to build.ps1; without one, build/ does the same work but for what needs PowerShell.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
remembered="$root/artifacts/powershell"
export DOTNET_NOLOGO=1 DOTNET_CLI_TELEMETRY_OPTOUT=1

# PowerShell writes colour codes into files and pipes as well unless it is told not to.
[[ -t 1 ]] || export NO_COLOR=1

if ! { command -v dotnet && dotnet --list-sdks | grep -qE '^[1-9][0-9]+\.'; } >/dev/null 2>&1; then
    echo "Peft is built with the .NET SDK 10 or later, which is not on the path. Install it (https://dotnet.microsoft.com/download) and try again." >&2
    exit 1
fi

# The engine behind a PowerShell command if it is 7.6 or later: its own pwsh, or the pwsh.dll of a dotnet tool.
powershell_home() {
    "$@" -NoProfile -NonInteractive -Command \
        'if ($PSVersionTable.PSVersion -ge [version]"7.6") { [Console]::Out.Write($PSHOME) } else { exit 1 }' 2>/dev/null
}

# Restores PowerShell as a dotnet tool. Where it was found is remembered in artifacts/powershell; that there was none, for a day.
restore_powershell() {
    mkdir -p "$root/artifacts"
    local home=""
    if (cd "$root" && dotnet tool restore --verbosity quiet) >/dev/null 2>&1; then
        home="$(cd "$root" && powershell_home dotnet tool run pwsh --)" || home=""
    fi
    printf %s "$home" > "$remembered"
}

remembers_powershell() {
    [[ -s "$remembered" && -f "$(cat "$remembered")/pwsh.dll" ]] || [[ -n "$(find "$remembered" -size -2c -mmin -1440 2>/dev/null)" ]]
}

hand_over() {
    exec "$@" -NoProfile -File "$root/build.ps1" "${arguments[@]}"
}

arguments=("$@")
if [[ "${1:-}" != clean && $# -gt 0 ]]; then
    if command -v pwsh >/dev/null && powershell_home pwsh >/dev/null; then
        hand_over pwsh
    fi

    if ! remembers_powershell; then
        echo "No PowerShell 7.6 on the path: trying dotnet tool restore."
        restore_powershell
    fi
    home="$(cat "$remembered")"
    if [[ -n "$home" ]]; then
        hand_over dotnet "$home/pwsh.dll"
    fi

    echo "No PowerShell 7.6 here, neither on the path nor as a dotnet tool: the library does the work, and what needs a shell is skipped."
fi

exec dotnet run --project "$root/build" --verbosity quiet -- "${arguments[@]}"
