# What an installation that was cut short left in the container.
rm -rf /root/.nvstage /root/.nvstage.run /run/nvstage-apt /var/cache/nvstage-apt
say end
