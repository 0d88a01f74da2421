# What an installation that was cut short left in the container; one that goes on is given time to end.
exec 9>/run/.nvstage.lock
command -v flock >/dev/null 2>&1 && flock -w 30 9
rm -rf /root/.nvstage /root/.nvstage.run /run/nvstage-apt /var/cache/nvstage-apt
say end
