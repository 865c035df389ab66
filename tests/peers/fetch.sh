#!/bin/sh
# Newer versions of the programs that read us, unpacked beside the system's own: packages of Debian
# unstable whose static binaries run on Debian 12. Nothing is installed.
#
#     tests/peers/fetch.sh DIRECTORY PACKAGE...
#
# leaves DIRECTORY/usr/bin and prints the version of each package. What is there already is kept;
# remove DIRECTORY for newer ones.
set -eu

directory=$1
shift
mkdir -p "$directory"
# Tests of several binaries may come at once.
exec 9> "$directory/lock"
flock 9

missing=
for package; do
    [ -e "$directory/$package.version" ] || missing="$missing $package"
done

if [ -n "$missing" ]; then
    apt=$directory/apt
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/parts"
    cat > "$apt/sources.list" << LIST
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${PEERS_MIRROR:-http://deb.debian.org/debian} unstable main
LIST
    : > "$apt/status"
    cat > "$apt/apt.conf" << CONF
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "$apt/parts";
Dir::State::Lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Acquire::Languages "none";
APT::Sandbox::User "";
CONF
    APT_CONFIG=$apt/apt.conf
    export APT_CONFIG
    apt-get --quiet --quiet update >&2
    for package in $missing; do
        (cd "$apt" && apt-get --quiet --quiet download "$package" >&2)
        archive=$(ls "$apt/$package"_*.deb)
        dpkg-deb --extract "$archive" "$directory"
        dpkg-deb --field "$archive" Version > "$directory/$package.version"
        rm "$archive"
    done
    rm -r "$apt"
fi

for package; do
    echo "$package $(cat "$directory/$package.version")"
done
